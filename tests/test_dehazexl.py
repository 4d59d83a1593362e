"""What `dehazexl-s` has of its own beside the published network: its stem, its quiet start, its ending."""

from __future__ import annotations

import torch
from torch import Tensor

from dehazexl_cli.models import build
from dehazexl_cli.models.base import forward_in_memory
from dehazexl_cli.models.dehazexl import SMALL, DehazeXL, Encoder, Extremes
from dehazexl_cli.models.ending import AffineEnding, bilinear_weights
from dehazexl_cli.models.swin import SwinBlock, WindowAttentionV1, WindowAttentionV2, swin_blocks


def picture(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_fresh_weights_change_nothing() -> None:
    image = picture(300, 256)
    with torch.no_grad():
        assert torch.equal(build("dehazexl-s").eval()(image), image)


def test_blocks_of_the_fresh_encoder_add_nothing() -> None:
    encoder = Encoder(SMALL)
    with torch.no_grad():
        for block in encoder.modules():
            if isinstance(block, SwinBlock):
                side = 2 * block.window
                x = torch.randn(1, side, side, block.norm1.weight.numel())
                assert torch.equal(block(x), x)


def test_tokens_of_a_fresh_network_tell_places_apart() -> None:
    torch.manual_seed(0)
    model = build("dehazexl-s").eval()
    image = torch.cat([picture(256, 256) * 0.2, picture(256, 256)], dim=3)
    seen: list[Tensor] = []
    model.mixer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))  # type: ignore[operator]
    with torch.no_grad():
        model(image)
    dark, bright = seen[0][0].unflatten(0, (2, -1)).mean(1)
    assert torch.cosine_similarity(dark, bright, dim=0) < 0.9


def test_every_stage_and_the_mixer_learn_from_the_first_steps() -> None:
    torch.manual_seed(0)
    model = DehazeXL(SMALL)
    image = picture(256, 512)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # at the first step all heads are zero, and nothing passes through them
        optimizer.step()
        optimizer.zero_grad()
        (forward_in_memory(model, image) - 0.5 * image).square().mean().backward()
    for head in model.decoder.ending.heads:  # type: ignore[union-attr]
        assert head.affine.weight.grad.abs().max() > 0
    assert model.mixer.layers[0].qkv.weight.grad.abs().max() > 0  # type: ignore[union-attr]


def test_transforms_of_all_stages_add_up() -> None:
    ending = AffineEnding((8, 4), side=2, patch=16)
    with torch.no_grad():
        for head, value in zip(ending.heads, (0.25, 0.5), strict=True):
            head.affine.bias[:9] = torch.eye(3).flatten() * value  # type: ignore[union-attr, operator]
            head.affine.bias[9:] = value / 10  # type: ignore[union-attr, operator]
    pixels = picture(16, 16)
    with torch.no_grad():
        output = ending([torch.randn(1, 2, 2, 8), torch.randn(1, 4, 4, 4)], pixels)
    torch.testing.assert_close(output, pixels + 0.75 * (pixels - 0.85) + 0.075)


def test_transforms_rise_linearly_between_the_middles_of_cells() -> None:
    up = bilinear_weights(8, 2)
    raised = up @ torch.tensor([0.0, 1.0])
    torch.testing.assert_close(raised, torch.tensor([0.0, 0.0, 0.125, 0.375, 0.625, 0.875, 1.0, 1.0]))


def test_attention_is_the_same_in_training_as_in_use() -> None:
    torch.manual_seed(0)
    for version, kind in ((1, WindowAttentionV1), (2, WindowAttentionV2)):
        blocks = swin_blocks(version, 2, 16, 2, 4, 8)
        assert isinstance(blocks[0].attn, kind)
        x = torch.randn(2, 8, 8, 16)
        trained = blocks(x)
        with torch.inference_mode():
            used = blocks(x)
        torch.testing.assert_close(trained, used, rtol=1e-4, atol=1e-5)


def test_tokens_are_told_the_darkest_and_brightest_of_their_own_ground() -> None:
    told = Extremes(8)
    torch.nn.init.normal_(told.last.weight)
    ground = torch.full((1, 3, 64, 64), 0.5)
    shadow = ground.clone()
    shadow[..., 40:44, 8:12] = 0.0  # in the second row of cells, first column
    with torch.no_grad():
        change = (told(shadow) - told(ground)).abs().amax(-1)[0]
    assert change[1, 0] > 0
    change[1, 0] = 0
    assert change.max() == 0


def test_even_ground_has_gradients() -> None:
    told = Extremes(8)
    torch.nn.init.normal_(told.last.weight)
    ground = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    told(ground).sum().backward()
    assert ground.grad is not None and ground.grad.isfinite().all()
