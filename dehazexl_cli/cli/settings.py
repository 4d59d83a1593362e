"""Where options come from when the command line does not say: variables DEHAZEXL_… and a TOML file.

click looks options up in the command line, then the environment, then its `default_map`, then takes the
default. Here every option of every command is told the names of its variables, and a file becomes that map.
"""

from __future__ import annotations

import copy
import errno
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from dehazexl_cli.cli.output import stdout_failure
from dehazexl_cli.errors import InputError, OutputError, UsageError
from dehazexl_cli.paths import is_gdal_name
from dehazexl_cli.text import decoded, masked

PREFIX = "DEHAZEXL_"
FILE_VARIABLE = f"{PREFIX}CONFIG"
OF_TESTS = frozenset({f"{PREFIX}SHARED"})  # this project's own, which name no option
# The only name that stands for the file itself, in whichever command it is given.
CONFIG = "config"
SINGLE_QUOTES = r"put paths with backslashes between single quotes: weights = 'C:\net.pt'"
# Where long help shows an option; others stay in the panel of all.
PANELS = {
    "Input": "bands all-bands input-range nodata not-alpha any-size mask window bbox bbox-crs context "
    "from-file null base exclude if-hazy shard",
    "Model": "model weights multiple precision strength seed",
    "Output": "unseen format co overviews no-provenance overwrite in-place haze-map suffix skip-existing "
    "redo-changed on-error resume dry-run",
    "Memory and devices": "device max-ram max-vram threads tmp-dir jobs gpus dask",
    "Whole scene and tiles": "mode tile tile-overlap blend long-side upsampling overlap",
    "Reports": "json print-paths report stac reports log progress quiet verbose csv",
}
PANEL_OF = {key: panel for panel, keys in PANELS.items() for key in keys.split()}
FIT_ON_A_PAGE = 20  # options that need no panels
META = "dehazexl_cli.settings"  # where a context keeps the name of the file


class Setting(NamedTuple):
    """An option of a command that files and variables may set."""

    key: str  # its long name on the command line, without dashes
    option: Any  # click's
    variables: tuple[str, str]  # of this command alone, and of all that have the option


class Configured(TyperGroup):
    """The group of all commands: its options, and theirs, may come from the environment and a file."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        file = option_for_file()
        for path, command in commands_of(self):
            for setting in settings_of(path, command):
                setting.option.envvar = list(setting.variables)
                setting.option.show_envvar = False  # help would be twice as long
                if len(command.params) > FIT_ON_A_PAGE:
                    setting.option.rich_help_panel = PANEL_OF.get(setting.key)
            if not hasattr(command, "commands") or not path:
                command.params.append(copy.copy(file))
        self.params[-1].envvar = FILE_VARIABLE  # else a command would prefer it to the option before it

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        """Read the line as far as the group's own options go."""
        with in_our_words():
            return super().make_context(*arguments, **settings)

    def resolve_command(self, context: Any, arguments: list[str]) -> Any:
        """Find the command that is named; UsageError, with what was meant, for help or an image instead."""
        first, rest = arguments[0], arguments[1:]
        if first not in self.commands:
            if first == "help":
                raise mistaken(first, [*rest[:1], "--help"])
            if "." in first or os.path.exists(first) or is_gdal_name(first):
                target = [] if any(not each.startswith("-") for each in rest) else ["OUT.tif"]
                raise mistaken(first, ["run", first, *target, *rest])
        return super().resolve_command(context, arguments)

    def invoke(self, context: Any) -> Any:
        """Read the rest of the line, and do what it says."""
        with in_our_words():
            return super().invoke(context)


def mistaken(word: str, meant: list[str]) -> UsageError:
    """The error to raise for a word that stands where a command does."""
    return UsageError(f"{word} is no command", shlex.join(["dehazexl", *meant]))


def incomplete(context: Any) -> UsageError:
    """The error to raise for a command without all of its arguments."""
    params = context.command.params
    needed = [each.metavar for each in params if each.param_type_name == "argument" and each.required]
    command = context.command_path
    return UsageError(
        f"{command} needs {' and '.join(needed)}", f"{command} {' '.join(needed)}; see: {command} --help"
    )


@contextmanager
def in_our_words() -> Iterator[None]:
    """Have typer's complaints say no secrets, and help that cannot be written fail as other data does.

    Help that nobody reads to its end, as behind `| head -1`, needs no words.
    """
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich's way to end, with 1
            raise SystemExit(OutputError.exit_code) from end
        raise
    except OSError as error:
        if error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC, errno.EBADF):
            raise stdout_failure(error) from error
        raise
    except Exception as error:
        if type(error).__name__ == "MissingParameter" and error.param.param_type_name == "argument":  # type: ignore[attr-defined]
            raise incomplete(error.ctx) from None  # type: ignore[attr-defined]
        if hasattr(error, "format_message") and hasattr(error, "message"):
            error.message = masked(error.message)
        raise


def commands_of(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A group and all below it, with the words that lead there."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands_of(command, (*path, name))


def settings_of(path: tuple[str, ...], command: Any) -> list[Setting]:
    """What files and variables may set of a command: all options but those that act at once, like --help."""
    found = []
    for option in command.params:
        if option.param_type_name != "option" or option.is_eager:
            continue
        key = max(option.opts, key=len).lstrip("-")
        own = "_".join([*path, key]).replace("-", "_").upper()
        found.append(Setting(key, option, (PREFIX + own, PREFIX + key.replace("-", "_").upper())))
    return found


def option_for_file() -> Any:
    """The option --config, as typer makes it."""

    def carrier(
        file: Annotated[
            Path | None,
            typer.Option(
                f"--{CONFIG}",
                metavar="FILE.toml",
                help="Take options from a file; those given here go before.",
                is_eager=True,
                callback=take_settings,
            ),
        ] = None,
    ) -> None:
        """Only there to be looked at."""

    app = typer.Typer(add_completion=False)
    app.command()(carrier)
    option: Any
    (option,) = (param for param in typer.main.get_command(app).params if param.name == "file")
    option.expose_value = False
    option.name = META  # no command's own
    option.show_envvar = False
    return option


def take_settings(context: typer.Context, file: Path | None) -> None:
    """Make a file the defaults of the commands below, and see that what was set can be kept.

    Raises InputError for a file that cannot be read, UsageError for what is not known or has a wrong value.
    """
    if context.resilient_parsing:  # completing a line is no time for errors
        return
    top = context.find_root()
    root = top.command
    if file is not None:
        values: Any = defaults_of(root, read_toml(file), file)
        top.default_map = values  # for a command that asks about others
        for name in words_to(context):
            values = values.get(name, {})
        context.default_map = values
        context.meta[META] = file
    require_usable_variables(context)


def words_to(context: Any) -> tuple[str, ...]:
    """The words that lead to the command of a context, without the program's own name."""
    return () if context.parent is None else (*words_to(context.parent), context.info_name)


def read_toml(file: Path) -> dict[str, Any]:
    """What a file holds; InputError if that is no TOML."""
    import tomllib

    try:
        values = tomllib.loads(decoded(file.read_bytes()).replace("\r\n", "\n"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})", f"check --{CONFIG}") from error
    except ValueError as error:
        escape = "Unescaped" in str(error) or "hex value" in str(error)
        raise InputError(
            f"{file}: is no TOML ({error})",
            SINGLE_QUOTES
            if escape
            else 'write lines like device = "cpu", and [run] above those of one command',
        ) from error
    require_no_control(file, values)
    return values


def require_no_control(file: Path, values: Any) -> None:
    """Raises InputError for a text with a line break or tab, which a path with backslashes has become."""
    for name, value in values.items() if isinstance(values, dict) else ():
        require_no_control(file, value)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and any(ord(letter) < 32 for letter in text):
                raise InputError(
                    f"{file}: {name} = {text!r} has a character that no option takes", SINGLE_QUOTES
                )


def defaults_of(root: Any, values: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """click's `default_map` of what a file holds: options for every command that has them, tables for one.

    Raises UsageError for a name that is none, with the nearest, and for a value that an option cannot have.
    """
    shared = {name: value for name, value in values.items() if not isinstance(value, dict)}
    known = {setting.key for path, command in commands_of(root) for setting in settings_of(path, command)}
    require_known(shared, known, f"{file}: ")
    return defaults_below(root, (), shared, {k: v for k, v in values.items() if k not in shared}, file)


def defaults_below(
    command: Any, path: tuple[str, ...], shared: Mapping[str, Any], tables: Mapping[str, Any], file: Path
) -> dict[str, Any]:
    """The defaults of a command and all below it."""
    where = f"{file}: [{'.'.join(path)}] " if path else f"{file}: "
    below = getattr(command, "commands", {})
    own = {key: value for key, value in tables.items() if key not in below}
    settings = {setting.key: setting for setting in settings_of(path, command)}
    require_known(own, {*settings, *below} if path else below, where)
    context = typer.Context(command, info_name=path[-1] if path else None, resilient_parsing=True)
    found: dict[str, Any] = {}
    for given, said_in in ((shared, f"{file}: "), (own, where)):
        for name, value in given.items():
            setting = settings.get(name.replace("_", "-"))
            if setting is not None:
                found[setting.option.name] = usable(setting, value, context, f"{said_in}{name}", path)
    for name, inner in below.items():
        # A command may go by another name as a plug-in; its table has its own.
        table = tables.get(inner.name or name, {})
        if not isinstance(table, dict):
            raise UsageError(f"{where}{name} is a command", f"write its options below a line [{name}]")
        found[name] = defaults_below(inner, (*path, inner.name or name), shared, table, file)
    return found


def usable(setting: Setting, value: Any, context: Any, where: str, path: tuple[str, ...]) -> Any:
    """A value as the command line would have it; UsageError if the option cannot have it."""
    texts = as_on_the_command_line(setting.option, value)
    try:
        if texts is None:
            kind = "true or false" if setting.option.is_flag else "text or a number"
            raise UsageError(f"{where} = {value!r} is not possible", f"give {kind}")
        setting.option.process_value(context, texts)
    except typer.BadParameter as error:
        hint = f"see: {command_line(path)} --help"
        raise UsageError(f"{where} = {value!r} is not possible: {error.message}", hint) from error
    return texts


def as_on_the_command_line(option: Any, value: Any) -> Any:
    """Text, true or false, or texts for an option that may be repeated; None for what cannot be."""
    if option.is_flag or isinstance(value, bool):
        return value if option.is_flag and isinstance(value, bool) else None
    if isinstance(value, list):
        if any(isinstance(each, bool | list | dict) for each in value):
            return None
        texts = list(map(str, value))
        return texts if option.multiple else ",".join(texts)
    return [str(value)] if option.multiple else str(value)


def require_known(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raises UsageError for the first name that is not known, with the nearest one."""
    known = sorted(known)
    for name in names:
        if name.replace("_", "-") not in known:
            close = nearest(name.replace("_", "-"), known)
            hint = f"did you mean {close}?" if close else "it has no settings; take it out"
            raise UsageError(f"{where}{name} is not known", hint)


def require_usable_variables(context: Any) -> None:
    """Raises UsageError for a variable whose value an option of this command cannot have."""
    for setting in settings_of(words_to(context), context.command):
        name = variable_used(setting, os.environ)
        if name is not None:
            try:
                setting.option.process_value(context, setting.option.value_from_envvar(context))
            except typer.BadParameter as error:
                raise UsageError(
                    f"the variable {name}={os.environ[name]} is not possible: {error.message}",
                    f"unset it, or see: {command_line(words_to(context))} --help",
                ) from error


def variable_used(setting: Setting, environment: Mapping[str, str]) -> str | None:
    """The variable that sets an option: the command's own before that of all; empty ones are none."""
    return next((name for name in setting.option.envvar or () if environment.get(name)), None)


def known_variables(root: Any) -> set[str]:
    """All variables that are heeded."""
    found = {FILE_VARIABLE}
    for path, command in commands_of(root):
        found.update(name for setting in settings_of(path, command) for name in setting.variables)
    return found


def unknown_variables(root: Any, environment: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that nothing heeds."""
    unknown = environment.keys() - known_variables(root) - OF_TESTS
    return sorted(name for name in unknown if name.startswith(PREFIX))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like another."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, list(known), 1, 0)), None)


def command_line(path: tuple[str, ...]) -> str:
    """How a command is called."""
    return " ".join(["dehazexl", *path])
