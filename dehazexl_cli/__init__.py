"""Remove haze from aerial and satellite images of any size.

>>> import dehazexl_cli
>>> clear = dehazexl_cli.dehaze(hazy)                       # an array, bands first or last, or a path
>>> clear = dehazexl_cli.dehaze(hazy, model="mgbl-s", options=dehazexl_cli.Options(strength=0.8))
>>> report = dehazexl_cli.dehaze_file("in.tif", "out.tif")  # any size, from disk to disk
"""

from __future__ import annotations

from dehazexl_cli import processors
from dehazexl_cli.api import dehaze, dehaze_file, load_model
from dehazexl_cli.config import Options
from dehazexl_cli.errors import DehazeError

__all__ = ["DehazeError", "Options", "__version__", "dehaze", "dehaze_file", "load_model"]
__version__ = "0.1.0"

processors.share()  # nothing of this package has loaded torch yet
