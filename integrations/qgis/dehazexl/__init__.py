# SPDX-License-Identifier: GPL-2.0-or-later
"""DehazeXL for QGIS: removes haze from rasters by the command dehazexl, as algorithms of Processing."""


def classFactory(iface):
    """Make the plugin; QGIS calls this. `iface` is None in qgis_process."""
    from .plugin import DehazeXLPlugin

    return DehazeXLPlugin()
