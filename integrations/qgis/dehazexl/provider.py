# SPDX-License-Identifier: GPL-2.0-or-later
"""The provider: its algorithms, its setting, the formats that it writes."""

from pathlib import Path

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithm import COMMAND_SETTING
from .check import CheckInstallation
from .dehaze import DehazeRaster
from .haze_map import HazeMap

SUFFIXES = ("tif", "png", "jpg", "jp2", "webp", "vrt")  # that `dehazexl run` writes


class DehazeXLProvider(QgsProcessingProvider):
    """What the toolbox shows as DehazeXL."""

    def id(self):
        """Return what the names of the algorithms begin with."""
        return "dehazexl"

    def name(self):
        return "DehazeXL"

    def icon(self):
        return QIcon(str(Path(__file__).with_name("icon.svg")))

    def svgIconPath(self):
        return str(Path(__file__).with_name("icon.svg"))

    def load(self):
        """Add the setting and the algorithms."""
        ProcessingConfig.settingIcons[self.name()] = self.icon()
        ProcessingConfig.addSetting(
            Setting(
                self.name(),
                COMMAND_SETTING,
                "The command dehazexl (empty: look for it)",
                "",
                valuetype=Setting.FILE,
            )
        )
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self):
        ProcessingConfig.removeSetting(COMMAND_SETTING)

    def loadAlgorithms(self):
        for algorithm in (DehazeRaster, HazeMap, CheckInstallation):
            self.addAlgorithm(algorithm())

    def supportedOutputRasterLayerExtensions(self):
        return list(SUFFIXES)
