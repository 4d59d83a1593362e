# SPDX-License-Identifier: GPL-2.0-or-later
"""*Haze map*: `dehazexl haze`."""

from qgis.core import QgsProcessingParameterRasterDestination

from .algorithm import CommandAlgorithm
from .runner import Cancelled

OUTPUT = "OUTPUT"

HELP = """<p>Shows how much haze lies over each place of an aerial or satellite image, as a raster in its \
place.</p>
<p>The work is done by <i>dehazexl haze</i>. A command dehazexl that is too old for it is to be updated.</p>
<h3>Red, green and blue band</h3><p>Where nothing is chosen, the bands that the file calls so, else its \
first three. Red alone means that the image is grey.</p>"""


class HazeMap(CommandAlgorithm):
    """Maps haze."""

    def name(self):
        return "hazemap"

    def displayName(self):
        return "Haze map"

    def shortDescription(self):
        return "Shows how much haze lies over each place of an image."

    def shortHelpString(self):
        return HELP

    def tags(self):
        return ["haze", "map", "transmission", "atmosphere", "satellite", "aerial"]

    def initAlgorithm(self, configuration=None):
        self.add_source()
        self.add(QgsProcessingParameterRasterDestination(OUTPUT, "Haze map"))

    def processAlgorithm(self, parameters, context, feedback):
        output = self.parameterAsOutputLayer(parameters, OUTPUT, context)
        wanted = ["--map", *(option.partition("=")[0] for option in self.source_options)]
        try:
            known = self.require("haze", wanted, feedback)
            arguments = ["haze", self.source, "--map", output, *self.source_options]
            arguments += ["--overwrite"] if "--overwrite" in known else []
            arguments += ["--progress", "json"] if "--progress" in known else []
            self.perform(arguments, feedback, [output])
        except Cancelled:
            feedback.pushInfo("Cancelled; nothing was written.")
            return {}
        return {OUTPUT: output}
