"""What commands do and say where there are GPUs, on devices that are simulated."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from batches import alike, make_image
from helpers.simulated_cuda import simulated_cuda
from test_simulated_cuda import dehazed, picture, small_next, tiny_paper

from dehazexl_cli.batch.executors import InProcessExecutor, shared_out
from dehazexl_cli.batch.results import Job, JobResult, State
from dehazexl_cli.batch.sources import Scene
from dehazexl_cli.cli.doctor_devices import Verdict, check_device, check_precision
from dehazexl_cli.config import EngineOptions, RunConfig
from dehazexl_cli.engine import Resume, run
from dehazexl_cli.raster.memory import ArrayReader, ArrayWriter
from dehazexl_cli.worker_config import WorkerConfig


@pytest.mark.parametrize("bf16", [True, False])
def test_doctor_tells_of_a_small_card_and_what_it_computes_in(bf16: bool) -> None:
    with simulated_cuda(capacity=6 << 30, bf16=bf16):
        (card,) = check_device("auto")
        found = {each.facts["precision"]: each for each in check_precision("auto")}
    assert card.verdict is Verdict.passed
    assert "cuda:0, Simulated GPU" in card.detail and "6.0 of 6.0 GB free" in card.detail
    assert {each.verdict for each in found.values()} == {Verdict.passed}
    assert "used by default" in found["fp16"].detail
    assert ("slow" in found["bf16"].detail) is not bf16


def test_doctor_warns_of_a_card_that_is_nearly_full() -> None:
    with simulated_cuda(capacity=1 << 28):
        (card,) = check_device("cuda")
    assert card.verdict is Verdict.warned and "little is free" in card.detail and "nvidia-smi" in card.remedy


def test_all_bands_on_two_devices_are_those_of_the_processor() -> None:
    image = picture(130, 300, 5, "uint16")
    options = {"precision": "fp32", "all_bands": True}
    expected, _ = dehazed(image, small_next(), device="cpu", **options)
    with simulated_cuda(count=2) as machine:
        output, report = dehazed(image, small_next(), device="cuda:0,cuda:1", **options)
        assert min(machine.peak_bytes) > 100_000
    assert report.device == "cuda:0,cuda:1"
    assert np.abs(expected.astype(float) - output).max() <= 65535 / 255


@pytest.mark.parametrize("phase", ["encode", "decode"])
def test_a_run_that_was_stopped_goes_on(phase: str, tmp_path: Path) -> None:
    image = picture(200, 130)
    options = EngineOptions(device="cuda", precision="fp32")

    def watch(now: str, done: int, total: int) -> None:
        if (now, done > total // 2) == (phase, True):
            raise KeyboardInterrupt

    with simulated_cuda():
        expected, _ = dehazed(image, tiny_paper(), device="cuda", precision="fp32")
        writers: list[ArrayWriter] = []

        def make_writer() -> ArrayWriter:
            writers.append(ArrayWriter(reader.info, "hwc"))
            return writers[-1]

        reader, resume = ArrayReader(image), Resume(str(tmp_path / "kept"), {})
        with pytest.raises(KeyboardInterrupt):
            run(reader, make_writer, tiny_paper(), options, watch, resume)
        assert any((tmp_path / "kept").iterdir())
        run(reader, make_writer, tiny_paper(), options, resume=resume)
    assert np.array_equal(writers[-1].array, expected)


def test_a_batch_by_two_gpus_gives_what_the_processor_gives(tmp_path: Path, tiny_weights: Path) -> None:
    names = ("a.tif", "b.tif")
    for seed, name in enumerate(names):
        make_image(tmp_path / name, seed=seed)

    def dehaze(setup: WorkerConfig, out: str, name: str) -> JobResult:
        jobs = iter([Job(Scene(str(tmp_path / name), tmp_path / out / name, 1))])
        told: list[JobResult] = []
        InProcessExecutor(setup, setup.load())(lambda wait: next(jobs, None), told.append)
        return told[0]

    config = RunConfig(EngineOptions(precision="fp32"))
    setup = WorkerConfig(config, weights=tiny_weights)
    on_cpu = replace(setup, config=replace(config, options=replace(config.options, device="cpu")))
    for folder in ("expected", "out"):
        (tmp_path / folder).mkdir()
    for name in names:
        assert dehaze(on_cpu, "expected", name).state is State.done
    with simulated_cuda(count=2) as machine, ThreadPoolExecutor(2) as pool:
        setups = shared_out(setup, 1, (0, 1))
        results = list(pool.map(dehaze, setups, ("out", "out"), names))
        assert min(machine.peak_bytes) > 100_000
    assert [each.report["device"] for each in results] == ["cuda:0", "cuda:1"]
    assert alike(tmp_path / "expected", tmp_path / "out", names)
