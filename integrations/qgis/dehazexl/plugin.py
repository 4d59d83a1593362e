# SPDX-License-Identifier: GPL-2.0-or-later
"""What QGIS loads and unloads."""

from qgis.core import QgsApplication

from .provider import DehazeXLProvider


class DehazeXLPlugin:
    """Adds the algorithms to Processing, with and without windows."""

    def __init__(self):
        self._provider = None

    def initProcessing(self):
        """Add the provider; qgis_process calls only this."""
        self._provider = DehazeXLProvider()
        QgsApplication.processingRegistry().addProvider(self._provider)

    def initGui(self):
        """Start within QGIS."""
        self.initProcessing()

    def unload(self):
        """Take the provider away, which also ends its life."""
        if self._provider is not None:
            QgsApplication.processingRegistry().removeProvider(self._provider)
            self._provider = None
