"""Documents that commands write beside rasters: tables, pages, pictures."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from dehazexl_cli.errors import OutputError
from dehazexl_cli.owner import Owner, tidy


def write_whole(path: Path, content: str | bytes, hint: str) -> None:
    """The file as a whole or not at all; OutputError, with the hint, if that fails.

    What processes that were killed have left in its folder is removed.
    """
    tidy(path.parent)
    temporary = path.with_name(f".{path.name[:60]}{Owner.this().mark()}part")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})", hint) from error
    finally:
        with suppress(OSError):  # nothing is there any more, or nothing ever was
            temporary.unlink()
