"""Pack the plugin as the zip that QGIS installs: python pack_plugin.py [FOLDER]; prints its name."""

from __future__ import annotations

import configparser
import sys
import zipfile
from pathlib import Path

PLUGIN = Path(__file__).resolve().parent / "dehazexl"
LEFT_OUT = {"__pycache__"}


def version() -> str:
    """Return the version of the plugin."""
    metadata = configparser.ConfigParser(interpolation=None)
    metadata.read(PLUGIN / "metadata.txt", encoding="utf-8")
    return metadata["general"]["version"]


def pack(folder: Path) -> Path:
    """Write the zip into a folder, and return its path; equal sources give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"dehazexl-qgis-{version()}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(PLUGIN.rglob("*")):
            inside = path.relative_to(PLUGIN.parent)
            if path.is_file() and not LEFT_OUT.intersection(inside.parts):
                member = zipfile.ZipInfo(inside.as_posix(), (1980, 1, 1, 0, 0, 0))
                member.external_attr = 0o644 << 16
                archive.writestr(member, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return target


if __name__ == "__main__":
    print(pack(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")))
