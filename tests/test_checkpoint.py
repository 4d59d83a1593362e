"""Weight files: ours say what they are, published ones are recognised, all others are refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY_S, published_state
from safetensors import safe_open
from safetensors.torch import save_file

from dehazexl_cli.errors import WeightsError
from dehazexl_cli.models import REGISTRY, build
from dehazexl_cli.models.checkpoint import load, save
from dehazexl_cli.models.dehazexl_s import DehazeXLS
from dehazexl_cli.models.mgbl import BilateralConfig, MultiGuidedBilateral


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "any name.safetensors"
    torch.manual_seed(0)
    save(path, build("dehazexl-s"), "dehazexl-s", {"licence": "CC0"}, torch.float16)
    return path


def test_a_saved_model_comes_back_with_its_name_and_provenance(small: Path) -> None:
    loaded = load(small)
    assert (loaded.name, loaded.about) == ("dehazexl-s", {"licence": "CC0"})
    assert len(loaded.sha256) == 64
    torch.manual_seed(0)
    expected = build("dehazexl-s").state_dict()
    for key, value in loaded.model.state_dict().items():
        assert torch.equal(value, expected[key].half().float()), key


def test_the_config_in_the_file_decides_the_shape_not_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save(path, DehazeXLS(TINY_S), "dehazexl-s", {}, torch.float32)
    assert load(path).model.config == TINY_S  # type: ignore[union-attr]


def test_a_bilateral_network_comes_back_from_our_own_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    config = BilateralConfig(patch=32, grid_side=16, colour_side=24, widths=(4, 6, 8), cells=2, depth=4)
    model = MultiGuidedBilateral(config)
    save(path, model, "mgbl-paper", {}, torch.float32)
    loaded = load(path)
    assert (loaded.name, loaded.model.config) == ("mgbl-paper", config)  # type: ignore[union-attr]
    for key, value in loaded.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_saving_leaves_one_file(small: Path) -> None:
    assert [path.name for path in small.parent.iterdir()] == [small.name]


@pytest.mark.parametrize("network", ["dehazexl", "dehazexl_linear", "mgbl"])
@pytest.mark.parametrize(
    ("container", "prefix"), [("plain", ""), ("state_dict", "module."), ("safetensors", "")]
)
def test_published_files_load_in_every_wrapping(
    shared: Path, tmp_path: Path, network: str, container: str, prefix: str
) -> None:
    state = {prefix + key: value for key, value in published_state(shared, network).items()}
    listed = json.loads((shared / "reference" / f"{network}_state_dict.json").read_text())
    for key, (shape, dtype) in listed.items():  # buffers that published files carry, and we compute
        if prefix + key not in state:
            state[prefix + key] = torch.zeros(shape, dtype=getattr(torch, dtype))
    path = tmp_path / f"x.{'safetensors' if container == 'safetensors' else 'pth'}"
    if container == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if container == "state_dict" else state, path)
    loaded = load(path)
    revisions = {"dehazexl": "transpose", "dehazexl_linear": "linear"}
    assert loaded.name == ("mgbl-paper" if network == "mgbl" else "dehazexl-paper")
    assert loaded.about.get("revision") == revisions.get(network)


@pytest.mark.parametrize(
    ("network", "asked", "held"),
    [
        ("mgbl", "dehazexl-paper", "mgbl-paper"),
        ("mgbl", "dehazexl-s", "mgbl-paper"),
        ("dehazexl", "mgbl-paper", "dehazexl-paper"),
    ],
)
def test_published_weights_of_another_network_are_refused_by_name(
    shared: Path, tmp_path: Path, network: str, asked: str, held: str
) -> None:
    path = tmp_path / "x.pth"
    torch.save(published_state(shared, network), path)
    with pytest.raises(WeightsError, match=f"holds weights of {held}, not of {asked}"):
        load(path, asked)


def test_what_a_published_bilateral_file_lacks_is_named(shared: Path, tmp_path: Path) -> None:
    state = published_state(shared, "mgbl")
    del state["guide_g.conv3.conv.weight"]
    state["fusion.0.bias"] = torch.zeros(5)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "x.pth")
    assert "1 missing: guides.g.last.weight" in caught.value.message
    assert "1 mis-shaped: fuse.0.bias is (5,), not (16,)" in caught.value.message
    assert "bilateral" in caught.value.hint


def test_weights_of_another_model_are_refused_by_name(small: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds weights of dehazexl-s, not of dehazexl-paper"):
        load(small, "dehazexl-paper")


def test_keys_and_shapes_that_do_not_fit_are_named(shared: Path, tmp_path: Path) -> None:
    state = published_state(shared, "dehazexl")
    del state["decoder.output.weight"]
    state["head.weight"] = torch.zeros(3)
    state["bottleneck.input_proj.bias"] = torch.zeros(5)
    path = tmp_path / "x.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError) as caught:
        load(path)
    assert "1 missing: decoder.ending.output.weight" in caught.value.message
    assert "1 unexpected: head.weight" in caught.value.message
    assert "1 mis-shaped: mixer.input_proj.bias is (5,), not (768,)" in caught.value.message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"no weights at all", b"PK\x03\x04 broken", b"\x10\0\0\0\0\0\0\0{}"]
)
def test_damaged_files_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="no readable weight file"):
        load(path)


def test_a_cut_file_is_refused(small: Path) -> None:
    small.write_bytes(small.read_bytes()[:-1000])
    with pytest.raises(WeightsError):
        load(small)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path(tmp_path / "ran").write_text, ("x",))

    path = tmp_path / "x.pth"
    torch.save({"weights": Attack()}, path)
    with pytest.raises(WeightsError):
        load(path)
    assert not (tmp_path / "ran").exists()


def test_a_header_of_a_later_version_is_refused_with_advice(small: Path, tmp_path: Path) -> None:
    with safe_open(small, framework="pt") as file:
        header = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    path = tmp_path / "later.safetensors"
    save_file(state, path, header | {"config": json.dumps({"unheard_of": 1})})
    with pytest.raises(WeightsError, match="header this version cannot read") as caught:
        load(path)
    assert "update dehazexl" in caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weight file .*nowhere\.pth"):
        load(tmp_path / "nowhere.pth")


def test_small_model_keeps_within_its_size() -> None:
    assert sum(p.numel() for p in build("dehazexl-s").parameters()) <= 8_000_000
    assert set(REGISTRY) >= {"dehazexl-s", "dehazexl-paper"}
