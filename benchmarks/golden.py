"""Compare what two states of the code make of the same inputs, byte by byte.

    python benchmarks/golden.py REF [--cases nodata,resume] [--keep FOLDER]

REF is a commit; it is checked out beside this one, and both make every case on this machine with the same
interpreter and weights of their own tree. Results of all modes, dtypes and detours (a run that was killed and
gone on with, the workers of a cluster, a VRT) must be equal to the byte, and reports in all but
times, memory and paths. Exits 1 if anything differs, and says what. Takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

ROOT = Path(__file__).resolve().parents[1]
KILLED = "resume"  # a run of this case is killed in the middle, and gone on with
CASES = {
    "global": ["rgb.tif"],
    "edges": ["rgb.tif", "--overlap", "0", "--max-ram", "1G"],
    "tile": ["rgb.tif", "--mode", "tile", "--tile", "320"],
    "downsample": ["rgb.tif", "--mode", "downsample", "--long-side", "400"],
    "whole": ["rgb.tif", "--mode", "whole", "--precision", "fp32"],
    "nodata": ["nodata.tif"],
    "all-bands": ["four.tif", "--all-bands"],
    "sixteen": ["four.tif", "--strength", "0.7"],
    "float": ["float.tif", "--input-range", "0,1"],
    "window": ["rgb.tif", "--window", "100,50,400,300", "--context", "scene"],
    "fast": ["rgb.tif", "--model", "mgbl-s"],
    "png": ["picture.png"],
    KILLED: ["rgb.tif", "--resume", "--max-ram", "1G"],
    "dask": ["rgb.tif", "--dask", "local:2"],
    "vrt": ["nodata.tif"],
}
SUFFIX = {"png": ".png", "vrt": ".vrt"}  # of what is written; else .tif
RANDOM = re.compile(r"\b[0-9a-f]{8}\b")  # in names of parts of a VRT
# Of a report: what differs from run to run, and what says where things lie.
VOLATILE = (
    "second",
    "bytes",
    "peak",
    "memory",
    "time",
    "path",
    "input",
    "output",
    "version",
    "threads",
    "processing",
)


def make_inputs(folder: Path) -> None:
    """Write ground under a veil that grows to the right, in every dtype."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0.05, 0.9, (4, 20, 24)).repeat(32, 1).repeat(32, 2)[:, :620, :750]
    thickness = np.linspace(0.1, 0.8, 750)
    hazy = (coarse + rng.normal(0, 0.03, coarse.shape)) * (1 - thickness) + 0.85 * thickness
    hazy = hazy.clip(0, 1)
    eight = (hazy[:3] * 254 + 1).astype(np.uint8)
    empty = eight.copy()
    empty[:, 40:200, 100:460] = 0
    empty[:, :, 700:] = 0
    write(folder / "rgb.tif", eight)
    write(folder / "nodata.tif", empty, nodata=0)
    write(folder / "four.tif", (hazy * 10_000).astype(np.uint16))
    write(folder / "float.tif", hazy[:3].astype(np.float32))
    write(folder / "picture.png", eight, driver="PNG", crs=None, transform=None)


def write(path: Path, pixels: NDArray[Any], **changes: Any) -> None:
    """Write bands [count, height, width] as a raster with a place."""
    count, height, width = pixels.shape
    profile = {
        "driver": "GTiff",
        "crs": "EPSG:32633",
        "transform": from_origin(500_000, 5_000_000, 0.5, 0.5),
        "count": count,
        "height": height,
        "width": width,
        "dtype": pixels.dtype,
    }
    with rasterio.open(path, "w", **{**profile, **changes}) as file:
        file.write(pixels)


def make(tree: Path, inputs: Path, out: Path, case: str) -> None:
    """Let the code of a tree make a case in a folder of its own."""
    folder = out / case
    folder.mkdir(parents=True)
    source, *options = CASES[case]
    result = folder / f"result{SUFFIX.get(case, '.tif')}"
    command = [sys.executable, "-m", "dehazexl_cli", "run", str(inputs / source), str(result), *options]
    command += [
        "--device",
        "cpu",
        "--threads",
        "1",
        "--no-provenance",
        "--report",
        str(folder / "report.json"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONWARNINGS": "ignore"}
    if case == KILLED:
        kill_midway(command, tree, environment)
    done = subprocess.run([*command, "--quiet"], cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{case} in {tree}: exit code {done.returncode}\n{done.stderr}")


def kill_midway(command: list[str], tree: Path, environment: dict[str, str]) -> None:
    """Begin a run and kill it as soon as it decodes."""
    running = subprocess.Popen(
        [*command, "--progress", "json"], cwd=tree, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    for line in running.stderr:
        if '"decode"' in line:
            break
    running.send_signal(signal.SIGKILL)
    running.wait()
    running.stderr.close()


def differences(one: Path, other: Path) -> Iterator[str]:
    """What differs between two folders, in words."""
    files = [{named(path, root): path for path in root.rglob("*") if path.is_file()} for root in (one, other)]
    for name in sorted(files[0].keys() ^ files[1].keys()):
        yield f"{name} is there but once"
    for name in sorted(files[0].keys() & files[1].keys()):
        first, second = files[0][name], files[1][name]
        if name == "report.json":
            reports = [lasting(json.loads(path.read_text())) for path in (first, second)]
            yield from (f"{name}: {key}" for key in changed(*reports))
        elif content(first) != content(second):
            yield f"{name} differs{by_how_much(first, second)}"


def named(path: Path, root: Path) -> str:
    """The name of a file below a folder, without the random part of its own that parts of a VRT have."""
    return RANDOM.sub("*", str(path.relative_to(root)))


def content(path: Path) -> bytes | str:
    """What is in a file, a VRT without those random names."""
    return RANDOM.sub("*", path.read_text()) if path.suffix == ".vrt" else path.read_bytes()


def by_how_much(one: Path, other: Path) -> str:
    """The largest difference of two rasters, in words; nothing if it is not of pixels."""
    try:
        with rasterio.open(one) as first, rasterio.open(other) as second:
            largest = np.abs(first.read().astype(np.float64) - second.read()).max()
    except (rasterio.errors.RasterioError, ValueError):
        return ""
    return f" by at most {largest:g} in its pixels"


def lasting(report: Any) -> Any:
    """A report without what differs from run to run."""
    if isinstance(report, dict):
        kept = {key: value for key, value in report.items() if not any(word in key for word in VOLATILE)}
        return {key: lasting(value) for key, value in kept.items()}
    return [lasting(each) for each in report] if isinstance(report, list) else report


def changed(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Where two reports differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from changed(one.get(key), other.get(key), f"{where}.{key}".lstrip("."))
    elif one != other:
        yield f"{where} is {one!r} there and {other!r} here"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("ref", help="the commit to compare with")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--keep", type=Path, help="a new folder for all results; else they are removed")
    chosen = parser.parse_args()
    git = ["git", "-C", str(ROOT), "worktree"]
    found = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary)
        tree, inputs = Path(temporary) / "tree", folder / "inputs"
        inputs.mkdir(parents=True)
        make_inputs(inputs)
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), chosen.ref], check=True)
        try:
            for case in chosen.cases.split(","):
                for where, code in (("there", tree), ("here", ROOT)):
                    make(code, inputs, folder / where, case)
                told = list(differences(folder / "there" / case, folder / "here" / case))
                found += len(told)
                print(case, *(told or ["equal"]), sep="\n  ", flush=True)
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
