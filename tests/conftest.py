"""What several tests share: where the real data lies, weights by formula, and small honest models."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Before torch is loaded: on a shared machine its threads are not to spin for each other.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np
import pytest
import rasterio
import torch
from batches import NAMES, make_image
from torch import Tensor

from dehazexl_cli import files
from dehazexl_cli.cli import main
from dehazexl_cli.config import EngineOptions, RunConfig, Selection, Storage
from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models.base import DehazeModel, PatchBatch, Skips
from dehazexl_cli.models.checkpoint import Loaded, bundled, save
from dehazexl_cli.models.dehazexl import PAPER
from dehazexl_cli.models.dehazexl_s import DehazeXLS, DehazeXLSConfig
from dehazexl_cli.plan import Footprint
from dehazexl_cli.report import Report

SHARED = Path(os.environ.get("DEHAZEXL_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def pytest_configure() -> None:
    """Undo nohup, and a shell's `&`: processes that tests start would ignore the signals they are sent."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            back = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, back)


@pytest.fixture(autouse=True)
def threads_stay() -> Iterator[None]:
    """Undo what a command that takes its process for its own makes of torch's threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs and real images that lies beside a developer's checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data at {SHARED}; set DEHAZEXL_SHARED")
    return SHARED


@pytest.fixture
def small_scene(tmp_path: Path) -> Path:
    """A GeoTIFF of 70 x 90 pixels."""
    path = tmp_path / "in.tif"
    shape = {"count": 3, "height": 70, "width": 90, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(
        path, "w", driver="GTiff", transform=rasterio.Affine(2, 0, 5e5, 0, -2, 4e6), **shape
    ) as f:
        f.write(np.random.default_rng(0).integers(50, 200, (3, 70, 90), dtype=np.uint8))
    return path


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    """A Dask cluster of two worker processes, with no thread to spare."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "localhost:0"},
        silence_logs=logging.ERROR,
    ) as made:
        yield made


def formula(name: str, shape: list[int]) -> Tensor:
    """The weight that the reference outputs were made with."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    last = name.rsplit(".", 1)[-1]
    if last == "logit_scale":
        draw = np.log(10) + 0.1 * draw
    elif last == "relative_position_bias_table":
        draw = 0.5 * draw
    elif last == "running_var":
        draw = 1 + 0.1 * abs(draw)
    elif last in ("bias", "q_bias", "v_bias", "running_mean"):
        draw = 0.1 * draw
    elif len(shape) <= 1:
        draw = 1 + 0.1 * draw
    else:
        draw = draw / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(draw, dtype=np.float32))


def published_state(shared: Path, network: str) -> dict[str, Tensor]:
    """A state dict with the published keys, filled by formula."""
    shapes = json.loads((shared / "reference" / f"{network}_parameters.json").read_text())
    return {name: formula(name, shape) for name, shape in shapes.items()}


class Identity(DehazeModel):
    """Gives back what it sees; its halo and patch are free."""

    def __init__(self, patch: int = 16, halo: int = 0) -> None:
        super().__init__()
        self.patch, self.halo = patch, halo
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def encode(self, batch: PatchBatch) -> tuple[Tensor, Skips]:
        return batch.pixels.mean((2, 3)), ()

    def apply_bottleneck(self, tokens: Tensor, grid: PatchGrid, seed: int | None) -> Tensor:
        return tokens

    def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
        return self.inner(batch.pixels).clone()

    def inner(self, pixels: Tensor) -> Tensor:
        end = self.halo + self.patch
        return pixels[..., self.halo : end, self.halo : end]

    def footprint(self, dtype: torch.dtype) -> Footprint:
        pixels = 12 * (self.patch + 2 * self.halo) ** 2
        return Footprint(4, 12, pixels, 4 * pixels, 24, bottleneck_sampled_bytes=24)


class Toy(Identity):
    """Global, local and positional at once: every wrong patch, order, halo or missing skip shows.

    Each patch becomes a blur of itself and its halo, minus the scene's mean, weighted by where it lies.
    """

    def __init__(self, patch: int = 16, halo: int = 2, token_reduction: str = "stack") -> None:
        super().__init__(patch, halo)
        self.token_reduction = token_reduction  # type: ignore[assignment]
        self.encoded: list[int] = []
        self.mixed = 0

    def encode(self, batch: PatchBatch) -> tuple[Tensor, Skips]:
        self.encoded += batch.ids
        blurred = torch.nn.functional.avg_pool2d(batch.pixels, 2 * self.halo + 1, 1)
        return self.inner(batch.pixels).mean((2, 3)), (blurred,)

    def apply_bottleneck(self, tokens: Tensor, grid: PatchGrid, seed: int | None) -> Tensor:
        self.mixed += 1
        if self.token_reduction == "sum":
            return tokens / len(grid)
        order = torch.arange(tokens.shape[1]).view(1, -1, 1) + 1
        return (tokens * order).sum(1, keepdim=True) / order.sum() + tokens / order

    def decode(self, batch: PatchBatch, scene: Tensor, skips: Skips) -> Tensor:
        (blurred,) = skips
        if self.token_reduction == "sum":
            rows = [id // len(batch.grid) for id in batch.ids]
            context = scene[rows]
        else:
            context = scene.flatten(0, 1)[list(batch.ids)]
        return 0.5 * self.inner(batch.pixels) + 0.3 * blurred + 0.2 * context[:, :, None, None]


@pytest.fixture
def identity() -> Identity:
    return Identity()


@pytest.fixture
def toy() -> Toy:
    return Toy()


TINY = dataclasses.replace(
    PAPER, patch=64, embed=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), decoder_heads=(2, 2, 1, 1)
)


TINY_S = DehazeXLSConfig(
    patch=64,
    encoder_widths=(8, 8, 8),
    token_dim=8,
    dim=16,
    wide_dim=16,
    latents=4,
    heads=2,
    scene_dim=8,
    widths=(8, 8, 12, 12),
    down_blocks=(1, 1, 1, 1),
)


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of a very small network that visibly changes what it sees."""
    return save_tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def save_tiny_weights(path: Path) -> Path:
    torch.manual_seed(0)
    model = DehazeXLS(TINY_S)
    save(path, model, "dehazexl-s", {}, torch.float32)
    return path


def dehaze_file(
    source: Path,
    target: Path,
    model: Loaded,
    options: EngineOptions,
    selection: Selection | None = None,
    overwrite: bool = False,
    storage: Storage | None = None,
    provenance: bool = True,
) -> Report:
    """Dehaze a file by options of the engine, which know what no command has an option for."""
    config = RunConfig(options, selection or Selection(), storage or Storage(), provenance)
    return files.dehaze_file(str(source), str(target), model, config, overwrite)


def names(folder: Path) -> set[str]:
    """What is in a folder."""
    return {path.name for path in folder.iterdir()}


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


def as_from_a_terminal() -> None:
    """Heed signals, in a process about to start: tests that run in the background may have them ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def dehazexl(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Result]]:
    """Runs the command line in this process, as `main` would; how it logs ends with the test."""

    def command(*arguments: object) -> Result:
        monkeypatch.setattr("sys.argv", ["dehazexl", *map(str, arguments)])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Result(code, *capfd.readouterr())

    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield command
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(scope="session")
def bundled_weights() -> Path:
    """The weight file that comes with the package."""
    return bundled("dehazexl-s")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tree of three images."""
    for seed, name in enumerate(NAMES):
        make_image(tmp_path / "in" / name, seed=seed)
    return tmp_path / "in"


@pytest.fixture
def batch(dehazexl: Callable[..., Result], tiny_weights: Path, folder: Path) -> Callable[..., Result]:
    """Runs a batch from the tree of images into `out` beside it."""

    def command(*arguments: object, sources: tuple[object, ...] = (folder,)) -> Result:
        out = folder.with_name("out")
        return dehazexl("batch", *sources, out, "--weights", tiny_weights, *arguments)

    return command
