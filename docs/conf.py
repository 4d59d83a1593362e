"""Sphinx's settings. Its sources are the repository, so that links between documents hold: `make docs`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dehazexl_cli import __version__  # noqa: E402

project = "dehazexl"
author = "The dehazexl maintainers"
version = release = __version__

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "weights/*.md", "benchmarks/results/*.md"]
exclude_patterns = ["**/.*", ".venv", "build", "demo", "dist", "dehazexl_cli", "tests"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib.typer"]
myst_heading_anchors = 4
default_role = "code"  # `x` in docstrings
autodoc_typehints = "description"
autodoc_mock_imports = ["torch", "numpy", "rasterio"]

html_theme = "furo"
html_title = f"dehazexl {version}"
html_copy_source = False
html_show_copyright = False
templates_path = ["_templates"]
html_additional_pages = {"index": "to_docs.html"}  # the site's root leads to docs/index.html
