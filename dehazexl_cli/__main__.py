"""The program `dehazexl`, also as `python -m dehazexl_cli`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line."""
    from dehazexl_cli.streams import open_closed

    open_closed()
    speak_utf8()
    try:
        from dehazexl_cli.cli import main as run
    except KeyboardInterrupt:  # nobody else is there yet to put it into words
        sys.stderr.write("error: stopped by Ctrl-C\n")
        sys.exit(130)
    run()


def speak_utf8() -> None:
    """Start anew with UTF-8 for names of files, as GDAL knows no other, where the locale has another one."""
    if sys.getfilesystemencoding().lower() == "utf-8" or sys.flags.utf8_mode:
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
