# make demo       a hazy example scene, dehazed, and a picture of before and after
# make test       lint, format, types, tests
# make test-all   the same with the slow tests
# make golden REF=main   whether results are the same as those of another commit, byte by byte
# make metadata-table   what becomes of everything a raster says beside its pixels, by format
# make qgis-plugin   the plugin for QGIS as a zip, in dist/
# make docs       the documents as a site, in build/docs
# make package    what goes to PyPI, in dist, checked; and tried in an environment of its own
# make clean      remove what these made, but keep the installation in .venv
#
# PYTHON=python3.12 make demo   uses another interpreter (3.11 or newer)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DELETE_ON_ERROR:
.PHONY: demo test test-all check golden metadata-table qgis-plugin docs package clean

demo: $(INSTALLED)
	@$(BIN)/python examples/make_scene.py demo >/dev/null
	@$(BIN)/dehazexl run demo/hazy.tif demo/dehazed.tif --overwrite >/dev/null
	@$(BIN)/python examples/before_after.py demo/hazy.tif demo/dehazed.tif demo/before_after.png >/dev/null
	@printf '%s\n' demo/hazy.tif demo/dehazed.tif demo/before_after.png

test: check
	$(BIN)/pytest

test-all: check
	$(BIN)/pytest -m "not gpu"

golden: $(INSTALLED)
	@$(BIN)/python benchmarks/golden.py $(REF)

metadata-table: $(INSTALLED)
	@$(BIN)/python examples/metadata_table.py

qgis-plugin:
	@$(PYTHON) integrations/qgis/pack_plugin.py dist

docs: $(INSTALLED)
	@$(BIN)/sphinx-build --fail-on-warning --quiet --builder html --conf-dir docs . build/docs
	@printf '%s\n' build/docs/index.html

# The wheel is tried beside the libraries of .venv, so that nothing large is fetched again.
package: $(INSTALLED)
	@rm -rf dist build/release build/wheel
	@$(BIN)/python -m venv build/release
	@build/release/bin/python -m pip install --quiet -c constraints.txt build twine check-wheel-contents
	@build/release/bin/python -m build --outdir dist >/dev/null
	@build/release/bin/twine check --strict dist/*
	@build/release/bin/check-wheel-contents dist/*.whl
	@$(BIN)/python -m pip install --quiet --no-deps --target build/wheel dist/*.whl
	@cd build && PYTHONPATH=wheel ../$(BIN)/python -m dehazexl_cli weights verify dehazexl-s
	@ls dist/*

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy dehazexl_cli

# constraints.txt pins torch; see there how that keeps the CUDA packages away.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV); the first time takes some minutes." >&2
	$(BIN)/python -m pip install --quiet --editable '.[test,docs]' -c constraints.txt
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "dehazexl needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf demo dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
