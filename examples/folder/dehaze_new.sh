#!/bin/sh
# dehaze_new.sh IN_DIR OUT_DIR: dehaze every GeoTIFF of IN_DIR that OUT_DIR does not have yet.
#
# A result appears in OUT_DIR when it is complete, so one that is there is done. Move scenes into IN_DIR when they are
# complete (mv within one disk), or half a scene may be taken; that fails, and is tried again the next time.
# Options come from the file that DEHAZEXL_CONFIG names, and from other variables; see docs/configuration.md.
set -u
[ $# -eq 2 ] || { echo "usage: $0 IN_DIR OUT_DIR" >&2; exit 2; }
failed=0
for scene in "$1"/*.tif; do
    [ -e "$scene" ] || continue
    result="$2/${scene##*/}"
    [ -e "$result" ] && continue
    dehazexl run "$scene" "$result" --quiet || failed=7
done
exit $failed
