"""`dehazexl doctor`: whether everything that a run needs is here and works."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import typer

from dehazexl_cli.cli import options, output
from dehazexl_cli.cli.doctor_devices import (
    Finding,
    Verdict,
    check_device,
    check_precision,
    check_processors,
    failed,
    passed,
    warned,
)
from dehazexl_cli.cli.options import Shared, shares
from dehazexl_cli.errors import CheckError, DehazeError
from dehazexl_cli.plan import PROCESS_BYTES, gigabytes
from dehazexl_cli.text import to_json

SEVERITY = (Verdict.passed, Verdict.warned, Verdict.failed)
PACKAGES = (
    "torch",
    "numpy",
    "rasterio",
    "tifffile",
    "imagecodecs",
    "typer",
    "rich",
    "safetensors",
    "threadpoolctl",
)
# What is written, and what a file to be read is likely to be packed with.
DRIVERS = ("COG", "PNG", "JPEG", "JP2OpenJPEG", "WEBP")
CODECS = ("LZW", "ZSTD", "LERC", "JPEG", "WEBP")
REINSTALL = "install it anew: pip install --force-reinstall {}"
LITTLE_DISK = 2 << 30  # bytes; a scene of 20,000 pixels a side takes about that
LITTLE_MEMORY = PROCESS_BYTES + (1 << 30)
LEAST_MEMORY = PROCESS_BYTES + (256 << 20)


@shares("device")
def doctor(shared: Shared, as_json: options.Json = False) -> None:
    """Check installation and machine: libraries, GPU, formats, weights, disk, memory. Takes seconds.

    Prints PASS, WARN or FAIL for each, with what to do. Exit code 8 if anything failed; warnings are no
    failure. With --device cuda a missing GPU is one.

    Example: dehazexl doctor
    """
    findings = []
    for finding in examine(shared.device):
        findings.append(finding)
        if not as_json:
            output.put(f"{finding.verdict.value}  {finding.name:<10}  {finding.detail}")
            if finding.remedy:
                output.put(f"{'':<18}try: {finding.remedy}")
    worst = max((finding.verdict for finding in findings), key=SEVERITY.index)
    if as_json:
        checks = [asdict(finding) for finding in findings]
        output.put(to_json({"verdict": worst, "checks": checks}, 2))
    if worst is Verdict.failed:
        raise typer.Exit(CheckError.exit_code)


def examine(device: str) -> Iterator[Finding]:
    """All checks in turn; one that breaks is a finding like others."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "python": check_python,
        "packages": check_packages,
        "device": lambda: check_device(device),
        "precision": lambda: check_precision(device),
        "gdal": check_gdal,
        "codecs": check_codecs,
        "weights": check_weights,
        "disk": check_disk,
        "memory": check_memory,
        "processors": check_processors,
    }
    for name, check in checks.items():
        try:
            yield from check()
        except DehazeError as error:
            yield failed(name, error.message, error.hint)
        except Exception as error:
            what = str(error).strip().splitlines() or ["no further words"]
            yield failed(
                name,
                f"cannot be checked: {type(error).__name__}: {what[0]}",
                "mend what is named above first; else report it, with `dehazexl --debug doctor`",
            )


def check_python() -> Iterator[Finding]:
    """The interpreter and the system."""
    version = platform.python_version()
    facts = {"version": version, "executable": sys.executable, "system": platform.platform()}
    yield passed("python", f"{version} on {platform.platform()}", facts)


def check_packages() -> Iterator[Finding]:
    """Whether the libraries are there and load."""
    versions, broken = {}, {}
    for name in PACKAGES:
        try:
            importlib.import_module(name)
            versions[name] = metadata.version(name)
        except Exception as error:  # a library that was built for something else raises anything
            broken[name] = (str(error).splitlines() or [type(error).__name__])[0]
    for name, why in broken.items():
        yield failed("packages", f"{name} cannot be loaded ({why})", REINSTALL.format(name))
    if not broken:
        yield passed("packages", ", ".join(f"{n} {v}" for n, v in versions.items()), versions)


def check_gdal() -> Iterator[Finding]:
    """GDAL's formats, and whether PROJ finds its database."""
    import rasterio
    from rasterio.crs import CRS

    with rasterio.Env() as env:
        drivers = env.drivers()
    version = f"{rasterio.__gdal_version__}, PROJ {rasterio.__proj_version__}"
    facts = {"gdal": rasterio.__gdal_version__, "proj": rasterio.__proj_version__, "drivers": len(drivers)}
    try:
        with rasterio.Env():
            CRS.from_epsg(32633).to_wkt()
    except Exception as error:
        told = {name: os.environ[name] for name in ("PROJ_DATA", "PROJ_LIB") if name in os.environ}
        where = f", looking where {', '.join(f'{n}={v}' for n, v in told.items())} says" if told else ""
        yield failed(
            "gdal",
            f"{version}: PROJ does not find its database{where} ({error})",
            f"unset {' '.join(told)}" if told else REINSTALL.format("rasterio"),
            facts,
        )
        return
    missing = [name for name in DRIVERS if name not in drivers]
    if missing:
        yield warned(
            "gdal",
            f"{version}, cannot write {', '.join(missing)}",
            "write GeoTIFFs, or install a rasterio whose GDAL has them",
            facts,
        )
    else:
        yield passed("gdal", f"{version}, {len(drivers)} formats", facts)


def check_codecs() -> Iterator[Finding]:
    """Which compressions of TIFFs are written and read back."""
    working = {codec: compresses(codec) for codec in ("DEFLATE", *CODECS)}
    missing = [codec for codec, works in working.items() if not works]
    if "DEFLATE" in missing:
        yield failed(
            "codecs", "GDAL cannot pack GeoTIFFs with DEFLATE", REINSTALL.format("rasterio"), working
        )
    elif missing:
        yield warned(
            "codecs",
            f"GDAL lacks {', '.join(missing)}",
            "TIFFs packed so are read through imagecodecs where it has them; or install another rasterio",
            working,
        )
    else:
        yield passed("codecs", f"GeoTIFFs by {', '.join(working)}", working)


def compresses(codec: str) -> bool:
    """Whether GDAL gives back what it has packed; of lossy codecs only the size."""
    import numpy as np
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile
    from rasterio.transform import Affine

    pixels = np.arange(3 * 32 * 32, dtype=np.uint8).reshape(3, 32, 32)
    shape = {"driver": "GTiff", "height": 32, "width": 32, "count": 3, "dtype": "uint8"}
    try:
        with MemoryFile() as file:
            with file.open(**shape, transform=Affine.scale(2), compress=codec) as made:
                made.write(pixels)
            with file.open() as made:
                found = made.read()
                used = made.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION", "")
    except (RasterioError, OSError):
        return False
    # Some versions of GDAL ignore a codec that they do not have.
    return bool(
        codec in used
        and found.shape == pixels.shape
        and (codec in ("JPEG", "WEBP") or (found == pixels).all())
    )


def check_weights() -> Iterator[Finding]:
    """Whether the bundled weights are those that were bundled, and work."""
    from dehazexl_cli.models.checkpoint import all_bundled, expected_digest, load
    from dehazexl_cli.models.examination import try_out
    from dehazexl_cli.models.loading import DEFAULT_MODEL

    files = all_bundled()
    if DEFAULT_MODEL not in files:
        yield failed("weights", f"the weights of {DEFAULT_MODEL} are missing", REINSTALL.format("dehazexl"))
    for name, path in files.items():
        loaded = load(path, name)
        expected = expected_digest(path)
        facts = {"model": name, "path": str(path), "sha256": loaded.sha256, "expected_sha256": expected}
        try_out(loaded)
        if expected == loaded.sha256:
            yield passed("weights", f"{name}, sha256 {loaded.sha256[:16]}…", facts)
        else:
            known = f"not {expected[:16]}…" if expected else "of which nothing is known"
            yield warned(
                "weights",
                f"{name} works, but is sha256 {loaded.sha256[:16]}…, {known}",
                "if you did not replace it yourself, " + REINSTALL.format("dehazexl"),
                facts,
            )


def check_disk() -> Iterator[Finding]:
    """Room and rights where outputs and temporary files go."""
    for name, folder in {"here": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}.items():
        free = shutil.disk_usage(folder).free
        facts = {"folder": str(folder), "free_bytes": free, "writable": os.access(folder, os.W_OK)}
        detail = f"{folder} ({name}): {free / 2**30:.1f} GB free"
        if not facts["writable"]:
            yield warned("disk", f"{detail}, cannot be written", "name outputs elsewhere", facts)
        elif free < LITTLE_DISK:
            yield warned("disk", detail, "free some space, or write elsewhere: --tmp-dir, TMPDIR", facts)
        else:
            yield passed("disk", detail, facts)


def check_memory() -> Iterator[Finding]:
    """Memory that a run may use."""
    from dehazexl_cli.engine.memory import FREE_SHARE, free_host_bytes

    free = free_host_bytes()
    budget = int(FREE_SHARE * free)
    facts = {"free_bytes": free, "budget_bytes": budget, "address_space_limit_bytes": address_space_limit()}
    detail = f"{free / 2**30:.1f} GB free, of which runs use up to {FREE_SHARE:.0%}"
    if facts["address_space_limit_bytes"]:
        detail += f"; ulimit -v is {facts['address_space_limit_bytes'] / 2**30:.1f} GB"
    if budget < LEAST_MEMORY:
        yield failed(
            "memory",
            detail,
            f"{gigabytes(LEAST_MEMORY)} are the least; close programs, or "
            "raise the limit of this job or container",
            facts,
        )
    elif budget < LITTLE_MEMORY:
        yield warned("memory", detail, "large scenes will be computed twice; close other programs", facts)
    else:
        yield passed("memory", detail, facts)


def address_space_limit() -> int | None:
    """What `ulimit -v` says, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft
