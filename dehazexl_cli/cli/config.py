"""`dehazexl config show`: the options in effect, and where each comes from."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.settings import (
    META,
    commands_of,
    nearest,
    settings_of,
    unknown_variables,
    variable_used,
)
from dehazexl_cli.errors import UsageError
from dehazexl_cli.text import to_json

config = typer.Typer(help="Show what options are in effect.", no_args_is_help=True)

WORDS = {
    "COMMANDLINE": "command line",
    "ENVIRONMENT": "environment",
    "DEFAULT_MAP": "file",
    "DEFAULT": "default",
}


class Effect(NamedTuple):
    """The value of an option, and why."""

    key: str
    value: Any
    source: str  # "default", "file", "environment" or "command line"
    where: str  # the file, the variable, or ""

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"value": self.value, "source": self.source, "where": self.where or None}


# Options of the command that is asked about are not ours.
@config.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def show(
    context: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND [ARGUMENT]...]", help="As you would run it; default: all commands."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print the options in effect and where each comes from: command line, environment, file or default.

    Without COMMAND, those that environment and file set, of all commands; --json always has all.

    Example: dehazexl config show run --device cpu
    """
    root = context.find_root()
    words = list(command or ())
    if words:
        path, found, arguments = find(root.command, words)
        effects = {" ".join(path): list(effects_of(context, path, found, arguments))}
    else:
        effects = {
            " ".join(path): list(effects_of(context, path, found, []))
            for path, found in commands_of(root.command)
            if not hasattr(found, "commands")
        }
    if as_json:
        plain = {name: {each.key: each.to_dict() for each in those} for name, those in effects.items()}
        output.put(to_json(plain, 2))
    else:
        print_effects(effects, whole=bool(words))
    for name in unknown_variables(root.command, os.environ):
        output.say(f"note: the variable {name} sets nothing")


def find(root: Any, words: list[str]) -> tuple[tuple[str, ...], Any, list[str]]:
    """The command that words name, and the rest of them; UsageError if there is none."""
    path: tuple[str, ...] = ()
    found = root
    while hasattr(found, "commands"):
        if not words or words[0] not in found.commands:
            missing = " ".join([*path, *words[:1]])
            close = nearest(words[0] if words else "", found.commands)
            raise UsageError(
                f"there is no command {missing!r}", f"did you mean {' '.join([*path, close or ''])}?"
            )
        path, found, words = (*path, words[0]), found.commands[words[0]], words[1:]
    return path, found, words


def effects_of(
    context: typer.Context, path: tuple[str, ...], command: Any, arguments: list[str]
) -> Iterator[Effect]:
    """The options of a command as they would be if it were run so; usage errors as it has them."""
    command = copy.copy(command)
    command.params = [copy.copy(param) for param in command.params]
    for param in command.params:
        param.required = False  # nothing is run, so nothing need be given
    parent: Any = context.find_root()
    for name in path[:-1]:
        parent = typer.Context(parent.command.commands[name], parent=parent, info_name=name)
    own = command.make_context(path[-1], arguments, parent=parent)
    for setting in settings_of(path, command):
        name = setting.option.name
        source = WORDS[own.get_parameter_source(name).name]
        where = {
            "environment": variable_used(setting, os.environ) or "",
            "file": str(own.meta.get(META, "")),
        }.get(source, "")
        yield Effect(setting.key, plain_value(own.params[name]), source, where)


def plain_value(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, list | tuple):
        return [plain_value(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def print_effects(effects: dict[str, list[Effect]], whole: bool) -> None:
    """A line per option; of all commands only what is set."""
    for name, all_of_it in effects.items():
        shown = [each for each in all_of_it if whole or each.source != "default"]
        if not shown:
            continue
        output.put(f"[{name}]")
        for effect in shown:
            value = "-" if effect.value is None else json.dumps(effect.value)
            where = f"{effect.source}{f' ({effect.where})' if effect.where else ''}"
            output.put(f"{effect.key:<18} {value:<24} {where}")
    if not whole:
        output.put(
            "everything else is the default; for all options of a command: dehazexl config show COMMAND"
        )
