"""`dehazexl doctor` passes here, and each thing that is broken is found, named and given a remedy."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import Result

from dehazexl_cli.cli import doctor_devices
from dehazexl_cli.cli.doctor_devices import Finding, Verdict
from dehazexl_cli.models import checkpoint

Command = Callable[..., Result]
doctor = importlib.import_module("dehazexl_cli.cli.doctor")  # its package has the command by that name
ROOT = Path(__file__).resolve().parents[1]
EVERYTHING = {
    "python", "packages", "device", "precision", "gdal", "codecs", "weights", "disk", "memory", "processors",
}  # fmt: skip


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def only(findings: Any) -> Finding:
    (finding,) = findings
    return finding  # type: ignore[no-any-return]


def test_a_sound_installation_passes(dehazexl: Command) -> None:
    result = dehazexl("doctor", "--device", "cpu", "--json")
    answer = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    assert {check["name"] for check in answer["checks"]} == EVERYTHING
    assert answer["verdict"] in ("PASS", "WARN")
    for check in answer["checks"]:
        assert (check["remedy"] == "") == (check["verdict"] == "PASS"), check
    (torch_version,) = (check["facts"]["torch"] for check in answer["checks"] if check["name"] == "packages")
    assert torch_version == version("torch")


def test_people_get_a_line_per_check(dehazexl: Command) -> None:
    lines = dehazexl("doctor").out.splitlines()
    assert {line.split()[1] for line in lines if line[:4] in tuple(Verdict)} == EVERYTHING
    assert all(line.split()[0] in tuple(Verdict) or line.lstrip().startswith("try: ") for line in lines)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_wanted_and_missing_is_exit_8(dehazexl: Command) -> None:
    result = dehazexl("doctor", "--device", "cuda")
    assert result.code == 8
    assert "FAIL  device      device 'cuda' is not available here" in result.out
    assert "Traceback" not in result.out + result.err


def test_a_gpu_that_pytorch_cannot_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert only(doctor_devices.check_device("auto")).verdict is Verdict.passed
    monkeypatch.setattr(doctor_devices, "nvidia_driver", lambda: "550.54")
    for built, word in ((None, "without CUDA"), ("12.4", "finds no GPU")):
        monkeypatch.setattr(torch.version, "cuda", built)
        found = only(doctor_devices.check_device("auto"))
        assert found.verdict is Verdict.warned and "550.54" in found.detail and word in found.detail


@pytest.mark.parametrize("fault", ["wrong", "nan"])
def test_a_device_that_computes_wrongly_fails(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    right = torch.nn.functional.conv2d

    def wrong(image: torch.Tensor, *arguments: torch.Tensor) -> torch.Tensor:
        found = right(image, *arguments)
        if image.dtype is torch.float64:
            return found
        return found * 1.2 if fault == "wrong" else found / 0

    monkeypatch.setattr(torch.nn.functional, "conv2d", wrong)
    found = list(doctor_devices.check_precision("cpu"))
    used = [each for each in found if each.facts["auto"]]
    assert [each.verdict for each in used] == [Verdict.failed]
    assert {each.verdict for each in found if not each.facts["auto"]} == {Verdict.warned}
    assert (used[0].facts["relative_error"] is None) == (fault == "nan")


def test_a_gpu_that_pytorch_has_no_code_for_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "is_available": True,
        "device_count": 1,
        "get_device_name": "Tesla K80",
        "get_device_capability": (3, 7),
        "mem_get_info": (11 << 30, 12 << 30),
        "get_arch_list": ["sm_75", "sm_90a", "compute_120"],
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    found = only(doctor_devices.check_device("cuda"))
    assert found.verdict is Verdict.failed and "75, 90, 120" in found.detail
    for capability, free, verdict in (
        ((9, 0), 11 << 30, Verdict.passed),
        ((7, 5), 300 << 20, Verdict.warned),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, value=capability: value)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_, value=free: (value, 12 << 30))
        assert only(doctor_devices.check_device("cuda")).verdict is verdict


def test_a_proj_that_is_led_astray_fails_and_names_the_variables() -> None:
    environment = os.environ | {"PROJ_DATA": "/nowhere", "PROJ_LIB": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-m", "dehazexl_cli", "doctor", "--device", "cpu"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 8
    assert "PROJ does not find its database" in done.stdout
    assert "try: unset PROJ_DATA PROJ_LIB" in done.stdout


def test_lists_of_weights_are_those_that_are_bundled() -> None:
    for path in checkpoint.all_bundled().values():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert checkpoint.expected_digest(path) == digest, "cd weights; sha256sum *.safetensors > SHA256SUMS"


def test_weights_that_are_others_damaged_or_missing_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundled_weights: Path, tiny_weights: Path
) -> None:
    monkeypatch.setattr(checkpoint, "weight_folders", lambda: (tmp_path,))
    assert only(doctor.check_weights()).verdict is Verdict.failed
    here = tmp_path / bundled_weights.name
    shutil.copy(bundled_weights, here)
    assert "nothing is known" in only(doctor.check_weights()).detail
    shutil.copy(bundled_weights.with_name("SHA256SUMS"), tmp_path)
    assert only(doctor.check_weights()).verdict is Verdict.passed
    shutil.copy(tiny_weights, here)
    assert only(doctor.check_weights()).verdict is Verdict.warned
    here.write_bytes(bundled_weights.read_bytes()[:100_000])
    found = [each for each in doctor.examine("cpu") if each.name == "weights"]
    assert only(found).verdict is Verdict.failed and str(here) in only(found).detail


def test_formats_and_codecs_that_gdal_lacks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import rasterio

    drivers = {"GTiff": "rw", "PNG": "rw", "COG": "rw", "JPEG": "rw", "WEBP": "rw"}
    monkeypatch.setattr(rasterio.Env, "drivers", lambda self: drivers)
    found = only(doctor.check_gdal())
    assert found.verdict is Verdict.warned and found.detail.endswith("cannot write JP2OpenJPEG")
    monkeypatch.setattr(doctor, "CODECS", ("LZW", "NONESUCH"))
    found = only(doctor.check_codecs())
    assert found.verdict is Verdict.warned
    assert found.facts == {"DEFLATE": True, "LZW": True, "NONESUCH": False}


def test_little_disk_memory_and_processors_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(9 << 30, 8 << 30, 1 << 30))
    assert {each.verdict for each in doctor.check_disk()} == {Verdict.warned}
    monkeypatch.setattr(doctor_devices, "allowed_processors", lambda: 1.5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    found = only(doctor_devices.check_processors())
    assert (found.verdict, found.remedy) == (Verdict.warned, "set OMP_NUM_THREADS=1")
    monkeypatch.setattr("dehazexl_cli.engine.memory.resident_bytes", lambda: 0)
    for free, verdict in (
        (500 << 20, Verdict.failed),
        (1200 << 20, Verdict.warned),
        (9 << 30, Verdict.passed),
    ):
        monkeypatch.setattr("dehazexl_cli.engine.memory.free_host_bytes", lambda free=free: free)
        assert only(doctor.check_memory()).verdict is verdict


def test_a_check_that_breaks_does_not_stop_the_others(
    dehazexl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise RuntimeError("libgdal.so.36: cannot open shared object file")

    monkeypatch.setattr(doctor, "check_gdal", broken)
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no_such_package"))
    result = dehazexl("doctor")
    assert result.code == 8
    assert "FAIL  packages    no_such_package cannot be loaded" in result.out
    assert "FAIL  gdal        cannot be checked: RuntimeError: libgdal.so.36" in result.out
    assert "memory" in result.out
