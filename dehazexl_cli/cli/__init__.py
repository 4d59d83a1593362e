"""The command line: one file per command. Heavy libraries are imported inside command bodies only."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from dehazexl_cli import __version__
from dehazexl_cli.cli import output
from dehazexl_cli.cli.batch import batch
from dehazexl_cli.cli.compare import compare
from dehazexl_cli.cli.config import config
from dehazexl_cli.cli.doctor import doctor
from dehazexl_cli.cli.evaluate import evaluate
from dehazexl_cli.cli.explain import explain
from dehazexl_cli.cli.haze import haze
from dehazexl_cli.cli.info import info
from dehazexl_cli.cli.plan import plan
from dehazexl_cli.cli.preview import preview
from dehazexl_cli.cli.run import run
from dehazexl_cli.cli.settings import Configured
from dehazexl_cli.cli.synth import synth
from dehazexl_cli.cli.train import train
from dehazexl_cli.cli.view import view
from dehazexl_cli.cli.weights import weights
from dehazexl_cli.errors import DehazeError, DeviceError, Interrupted, is_lack_of_memory
from dehazexl_cli.signals import ignore_signals, raise_on_signals
from dehazexl_cli.streams import Forgiving

app = typer.Typer(
    name="dehazexl",
    cls=Configured,
    help="Remove haze from aerial and satellite images of any size.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.command()(batch)
app.command()(plan)
app.command()(info)
app.command()(compare)
app.command()(preview)
app.command()(view)
app.command()(haze)
app.command()(explain)
app.command()(evaluate)
app.command()(train)
app.command()(synth)
app.command()(doctor)
app.add_typer(weights, name="weights")
app.add_typer(config, name="config")


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        output.put(f"dehazexl {__version__}")
        raise typer.Exit


@app.callback()
def settings(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """Remove haze from aerial and satellite images of any size."""
    output.debug = debug


def main() -> None:
    """Run the command line; known failures become two lines and their exit code."""
    run_guarded(lambda: app(prog_name="dehazexl"))  # also as python -m dehazexl_cli


def main_of_rio(arguments: list[str]) -> None:
    """`rio dehaze`: the command `run` in rio's words; ends the process like `main`."""
    group: Any = typer.main.get_command(app)
    group.commands["dehaze"] = group.commands["run"]
    run_guarded(lambda: group(["dehaze", *arguments], prog_name="rio"))


def run_guarded(command: Callable[[], Any]) -> None:
    """Do what a command line says; every way to fail has its words and its exit code."""
    output.events = False
    said_on, sys.stderr = sys.stderr, Forgiving(sys.stderr)
    try:
        with raise_on_signals():
            command()
    except Interrupted as stopped:
        ignore_signals()
        ended_by(stopped)
        sys.exit(stopped.exit_code)
    except DehazeError as error:
        ended_by(error)
        sys.exit(error.exit_code)
    except Exception as error:
        if is_lack_of_memory(error):  # before there was a plan, or after all were tried
            lack = DeviceError("memory ran out", "close other programs, or use a machine with more memory")
            ended_by(lack)
            sys.exit(lack.exit_code)
        if output.debug:
            output.show_traceback()
        else:
            output.show_bug(error)
        sys.exit(1)
    finally:
        sys.stderr = said_on


def ended_by(error: DehazeError | Interrupted) -> None:
    """Say what ended a command, and on request where it came from."""
    if output.debug:
        output.show_traceback()
    else:
        output.show_error(error)
