# SPDX-License-Identifier: GPL-2.0-or-later
"""*Dehaze raster*: `dehazexl run`."""

import shlex

from qgis.core import (
    QgsProcessingParameterBoolean,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFile,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterString,
)

from .algorithm import EXTENT, CommandAlgorithm
from .runner import Cancelled

OUTPUT, HAZE_MAP = "OUTPUT", "HAZE_MAP"
AUTO = "auto"
MODELS = (AUTO, "dehazexl-s", "mgbl-s", "dehazexl-paper", "mgbl-paper", "generic")
MODES = (AUTO, "global", "tile", "downsample", "whole")
DOUBLE, INTEGER = QgsProcessingParameterNumber.Double, QgsProcessingParameterNumber.Integer

HELP = """<p>Removes the haze of an aerial or satellite image by a neural network that judges the scene as a \
whole. Size, data type, other bands, nodata, place and metadata stay.</p>
<p>The work is done by the command <i>dehazexl</i>, which is installed beside QGIS, not in it. \
<i>Check installation</i> tells whether it is there.</p>
<h3>Red, green and blue band</h3><p>Where nothing is chosen, the bands that the file calls so, else its \
first three. Red alone means that the image is grey. All other bands are copied.</p>
<h3>Part to process</h3><p>Only this part is written. Its haze is judged by itself, or by the whole scene if \
<i>Judge the part by the whole scene</i> is ticked.</p>
<h3>Model</h3><p><i>auto</i>: what the weight file says, else dehazexl-s. <i>mgbl-s</i> is faster. Both come \
with dehazexl; the others need a weight file.</p>
<h3>Strength</h3><p>1 removes all the haze that the model sees, 0.7 leaves some of it.</p>
<h3>Mode</h3><p><i>auto</i> and <i>global</i> judge the scene as one; auto falls back to tiles where memory \
is too small for that. <i>tile</i>, <i>downsample</i> and <i>whole</i> are there to compare with.</p>
<h3>Further options</h3><p>Any other option of <i>dehazexl run</i>, as in a terminal: \
<i>--nodata 0 --input-range 0,4095</i>.</p>
<h3>Dehazed raster</h3><p>The suffix says the format: .tif, .png, .jpg, .jp2, .webp or .vrt.</p>
<h3>Haze map</h3><p>How much haze there was, as a raster beside the result.</p>"""


class DehazeRaster(CommandAlgorithm):
    """Removes haze."""

    def name(self):
        return "dehazeraster"

    def displayName(self):
        return "Dehaze raster"

    def shortDescription(self):
        return "Removes haze from an aerial or satellite image."

    def shortHelpString(self):
        return HELP

    def tags(self):
        return [
            "haze",
            "dehaze",
            "smoke",
            "atmosphere",
            "atmospheric correction",
            "clear",
            "satellite",
            "aerial",
        ]

    def initAlgorithm(self, configuration=None):
        self.add_source()
        self.add(
            choice("MODEL", "Model", MODELS),
            number("STRENGTH", "Strength", DOUBLE, defaultValue=1.0, minValue=0.0, maxValue=1.0),
        )
        self.add(
            QgsProcessingParameterFile("WEIGHTS", "Weight file of the model", optional=True),
            QgsProcessingParameterBoolean(
                "ALL_BANDS", "Dehaze all bands, not only red, green and blue", False
            ),
            QgsProcessingParameterBoolean("WHOLE_SCENE", "Judge the part by the whole scene", False),
            choice("MODE", "Mode", MODES),
            number("TILE", "Side of a tile in mode tile, in pixels", INTEGER, optional=True, minValue=1),
            text("DEVICE", "Device (auto, cpu, cuda, cuda:1, mps)", AUTO),
            text("MAX_RAM", "Memory that it may use, like 8G"),
            QgsProcessingParameterBoolean("COG", "Write a cloud-optimised GeoTIFF (COG)", False),
            QgsProcessingParameterBoolean("OVERVIEWS", "Add overviews", False),
            text("CREATION", "Creation options of GDAL, like COMPRESS=ZSTD|BLOCKSIZE=256"),
            text("OPTIONS", "Further options of dehazexl run"),
            advanced=True,
        )
        self.add(
            QgsProcessingParameterRasterDestination(OUTPUT, "Dehazed raster"),
            QgsProcessingParameterRasterDestination(
                HAZE_MAP, "Haze map", optional=True, createByDefault=False
            ),
        )

    def processAlgorithm(self, parameters, context, feedback):
        results = {OUTPUT: self.parameterAsOutputLayer(parameters, OUTPUT, context)}
        arguments = ["run", self.source, results[OUTPUT], *self.source_options]
        arguments += self._options(parameters, context)
        arguments += ["--overwrite", "--progress", "json"]  # the dialog has asked whether to overwrite
        try:
            if parameters.get(HAZE_MAP):
                self.require("run", ["--haze-map"], feedback)
                results[HAZE_MAP] = self.parameterAsOutputLayer(parameters, HAZE_MAP, context)
                arguments += ["--haze-map", results[HAZE_MAP]]
            self.perform(arguments, feedback, list(results.values()))
        except Cancelled:
            feedback.pushInfo("Cancelled; nothing was written.")
            return {}
        return results

    def _options(self, parameters, context):
        """List the options that differ from what the command does by itself, and the strength."""

        def string(name):
            return (self.parameterAsString(parameters, name, context) or "").strip()

        def flag(name):
            return self.parameterAsBool(parameters, name, context)

        values = {
            "--model": self.parameterAsEnumString(parameters, "MODEL", context),
            "--mode": self.parameterAsEnumString(parameters, "MODE", context),
            "--device": string("DEVICE"),
            "--weights": string("WEIGHTS"),
            "--max-ram": string("MAX_RAM"),
            "--tile": string("TILE"),
        }
        options = [f"--strength={self.parameterAsDouble(parameters, 'STRENGTH', context)!r}"]
        options += [f"{name}={value}" for name, value in values.items() if value not in ("", AUTO)]
        options += ["--all-bands"] if flag("ALL_BANDS") else []
        options += ["--context=scene"] if flag("WHOLE_SCENE") and parameters.get(EXTENT) else []
        options += ["--format=COG"] if flag("COG") else []
        options += ["--overviews"] if flag("OVERVIEWS") else []
        options += [f"--co={each.strip()}" for each in string("CREATION").split("|") if each.strip()]
        return options + shlex.split(string("OPTIONS"))


def choice(name, description, values):
    """Return a parameter that is one of some words, the first by default."""
    return QgsProcessingParameterEnum(
        name, description, list(values), defaultValue=values[0], usesStaticStrings=True
    )


def number(name, description, kind, **limits):
    """Return a parameter that is a number."""
    return QgsProcessingParameterNumber(name, description, kind, **limits)


def text(name, description, default=""):
    """Return a parameter that is a line of text and may be empty."""
    return QgsProcessingParameterString(name, description, default, optional=True)
