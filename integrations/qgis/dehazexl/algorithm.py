# SPDX-License-Identifier: GPL-2.0-or-later
"""What all algorithms share: the command, its options, and layers as it understands them."""

import re

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import (
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingParameterBand,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterExtent,
    QgsProcessingParameterRasterLayer,
)

from .command import CommandFailed, find_command
from .runner import ask_command, in_words, run_command
from .sources import dataset_name, part_options

COMMAND_SETTING = "DEHAZEXL_COMMAND"
INPUT, EXTENT = "INPUT", "EXTENT"
COLOURS = ("RED", "GREEN", "BLUE")


class CommandAlgorithm(QgsProcessingAlgorithm):
    """An algorithm that is done by the command dehazexl."""

    def createInstance(self):
        return type(self)()

    def add(self, *parameters, advanced=False):
        """Add parameters to the dialog, or below Advanced Parameters."""
        for parameter in parameters:
            if advanced:
                parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
            self.addParameter(parameter)

    def add_source(self):
        """Add what is read: a layer, its bands of colour and the part that is wanted."""
        self.add(QgsProcessingParameterRasterLayer(INPUT, "Hazy raster"))
        for name in COLOURS:
            self.add(
                QgsProcessingParameterBand(
                    name, f"{name.capitalize()} band", parentLayerParameterName=INPUT, optional=True
                )
            )
        self.add(QgsProcessingParameterExtent(EXTENT, "Part to process", optional=True))

    def prepareAlgorithm(self, parameters, context, feedback):
        """Ask the layer what can only be asked in the thread that it lives in."""
        with in_words_of_qgis():
            if self.parameterDefinition(INPUT) is not None:
                self.source, self.source_options = self._read_source(parameters, context)
        return True

    def _read_source(self, parameters, context):
        layer = self.parameterAsRasterLayer(parameters, INPUT, context)
        if layer is None:
            raise QgsProcessingException(self.invalidRasterError(parameters, INPUT))
        source = dataset_name(layer.name(), layer.dataProvider().name(), layer.source())
        options = []
        bands = [self.parameterAsInt(parameters, name, context) for name in COLOURS if parameters.get(name)]
        if len(bands) == 2:
            raise CommandFailed(
                "two of the bands red, green and blue are chosen",
                "choose all three, red alone for an image in grey, or none to go by what the file says",
            )
        if bands:
            options.append(f"--bands={','.join(map(str, bands))}")
        wanted = self.parameterAsExtent(parameters, EXTENT, context, layer.crs())
        if parameters.get(EXTENT) and not wanted.isNull():
            options += part_options(bounds(wanted), bounds(layer.extent()), layer.width(), layer.height())
        return source, options

    def perform(self, arguments, feedback, outputs):
        """Run the command, shown in the log as one would type it, and return what it wrote to stdout.

        Raises QgsProcessingException in the command's own words.
        """
        with in_words_of_qgis():
            program = command()
            feedback.pushCommandInfo(in_words([program, *arguments]))
            return run_command(program, arguments, feedback, outputs)

    def require(self, subcommand, options, feedback):
        """Raise QgsProcessingException if the command that is installed is too old for this.

        Returns the options of its subcommand.
        """
        with in_words_of_qgis():
            program = command()
            try:
                text = ask_command(program, [subcommand, "--help"], feedback)
            except CommandFailed as error:
                if error.code != 2:  # not a question of usage
                    raise
                raise too_old(program, f"`{subcommand}`", feedback) from error
            known = set(re.findall(r"--[a-z][a-z-]*", text))
            missing = [option for option in options if option not in known]
            if missing:
                raise too_old(program, f"`{subcommand} {' '.join(missing)}`", feedback)
            return known


class in_words_of_qgis:  # noqa: N801
    """Turns what the command raises into what Processing shows."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, CommandFailed):
            raise QgsProcessingException(str(error)) from error


def command():
    """Return the command, from the setting or wherever it is; raises CommandFailed."""
    return find_command(ProcessingConfig.getSetting(COMMAND_SETTING) or "")


def too_old(program, what, feedback):
    """Return the error of a command that has not learnt something yet."""
    version = ask_command(program, ["--version"], feedback).strip()
    return CommandFailed(
        f"{program} is {version}, which has no {what} yet",
        "update dehazexl, for instance by `pipx install --force .` in the folder of its newer sources",
    )


def bounds(rectangle):
    """Return xmin, ymin, xmax, ymax."""
    return (rectangle.xMinimum(), rectangle.yMinimum(), rectangle.xMaximum(), rectangle.yMaximum())
