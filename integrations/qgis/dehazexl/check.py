# SPDX-License-Identifier: GPL-2.0-or-later
"""*Check installation*: `dehazexl --version` and `dehazexl doctor`."""

from qgis.core import QgsProcessingOutputBoolean, QgsProcessingOutputString

from .algorithm import CommandAlgorithm, command, in_words_of_qgis
from .command import CommandFailed
from .runner import Cancelled, ask_command

CHECK_FAILED = 8  # exit code

HELP = """<p>Tells in the log which command dehazexl is used, its version, and what <i>dehazexl doctor</i> \
says of libraries, GPU, formats, weights, disk and memory, with what to do where something is missing. Takes \
seconds.</p>"""


class CheckInstallation(CommandAlgorithm):
    """Finds the command and asks it how it is."""

    def name(self):
        return "checkinstallation"

    def displayName(self):
        return "Check installation"

    def shortDescription(self):
        return "Finds the command dehazexl and checks that it can work on this machine."

    def shortHelpString(self):
        return HELP

    def tags(self):
        return ["doctor", "version", "install"]

    def initAlgorithm(self, configuration=None):
        self.addOutput(QgsProcessingOutputString("COMMAND", "The command"))
        self.addOutput(QgsProcessingOutputString("VERSION", "Its version"))
        self.addOutput(QgsProcessingOutputBoolean("PASSED", "Whether nothing failed"))

    def processAlgorithm(self, parameters, context, feedback):
        with in_words_of_qgis():
            try:
                program = command()
                version = ask_command(program, ["--version"], feedback).strip()
                feedback.pushInfo(f"{program}\n{version}\n")
                found, passed = examine(program, feedback)
            except Cancelled:
                return {}
        for line in found.splitlines():
            (feedback.pushWarning if line.startswith(("WARN", "FAIL")) else feedback.pushInfo)(line)
        if not passed:
            feedback.reportError(
                "Something that dehazexl needs is missing; the lines that begin with FAIL say what to do."
            )
        return {"COMMAND": program, "VERSION": version, "PASSED": passed}


def examine(program, feedback):
    """Return what `dehazexl doctor` says, and whether nothing failed."""
    try:
        return ask_command(program, ["doctor"], feedback), True
    except CommandFailed as error:
        if error.code != CHECK_FAILED:
            raise
        return error.text, False
