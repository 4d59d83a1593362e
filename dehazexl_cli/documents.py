"""Documents that commands write beside rasters: tables, pages, pictures."""

from __future__ import annotations

from pathlib import Path

from dehazexl_cli.errors import OutputError


def write_whole(path: Path, content: str | bytes, hint: str) -> None:
    """The file as a whole or not at all; OutputError, with the hint, if that fails."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written ({error.strerror})", hint) from error
