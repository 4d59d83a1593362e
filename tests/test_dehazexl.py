"""What networks of the published kind are made of, beside what they share with the released code."""

from __future__ import annotations

import torch
from conftest import TINY

from dehazexl_cli.models.base import forward_in_memory
from dehazexl_cli.models.dehazexl import DehazeXL
from dehazexl_cli.models.swin import WindowAttentionV1, WindowAttentionV2, swin_blocks


def test_every_parameter_learns_from_the_first_step() -> None:
    torch.manual_seed(0)
    model = DehazeXL(TINY)
    image = torch.rand(1, 3, 64, 128)
    (forward_in_memory(model, image) - 0.5 * image).square().mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not silent


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
