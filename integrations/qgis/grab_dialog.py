"""Draw the dialog of an algorithm without a screen: python3 grab_dialog.py RASTER PICTURE.png.

For the Python that QGIS is installed for; docs/qgis-dialog.png is made with it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest.mock import MagicMock

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QGIS_CUSTOM_CONFIG_PATH", "/tmp/dehazexl-qgis")
sys.path[:0] = [str(Path(__file__).resolve().parent), "/usr/share/qgis/python/plugins"]

from qgis.core import QgsApplication, QgsProject, QgsRasterLayer
from qgis.gui import QgsBrowserGuiModel, QgsMapCanvas, QgsMessageBar
from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtGui import QImage
from qgis.PyQt.QtWidgets import QMainWindow

SIZE = 900, 860  # pixels


def grab(raster: str, picture: str) -> None:
    """Show *Dehaze raster* for a raster, and save what is to be seen."""
    application = QgsApplication([], True)
    application.initQgis()
    import qgis.utils

    qgis.utils.iface = MagicMock()  # with what dialogs ask the main window for
    qgis.utils.iface.mainWindow.return_value = QMainWindow()
    qgis.utils.iface.mapCanvas.return_value = QgsMapCanvas()
    qgis.utils.iface.messageBar.return_value = QgsMessageBar()
    layer = QgsProject.instance().addMapLayer(QgsRasterLayer(raster, Path(raster).stem))
    qgis.utils.iface.activeLayer.return_value = layer
    qgis.utils.iface.browserModel.return_value = QgsBrowserGuiModel()
    from processing.core.Processing import Processing
    from processing.gui.AlgorithmDialog import AlgorithmDialog

    Processing.initialize()
    from dehazexl.plugin import DehazeXLPlugin

    plugin = DehazeXLPlugin()
    plugin.initProcessing()
    algorithm = application.processingRegistry().createAlgorithmById("dehazexl:dehazeraster")
    dialog = AlgorithmDialog(algorithm, False)
    dialog.resize(*SIZE)
    dialog.show()
    for _ in range(20):
        application.processEvents()
    picture_of = dialog.grab().toImage()
    few_colours = QImage.Format.Format_Indexed8, Qt.ImageConversionFlag.ThresholdDither
    if not picture_of.convertToFormat(*few_colours).save(picture):
        raise SystemExit(f"{picture} cannot be written")


if __name__ == "__main__":
    grab(*sys.argv[1:])
    os._exit(0)  # QGIS without its main window crashes while it is taken down
