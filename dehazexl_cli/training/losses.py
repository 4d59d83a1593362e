"""What training minimises: errors of pixels, their spectrum, and means; steps between patches; drafts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dehazexl_cli.grid import PatchGrid
from dehazexl_cli.models.base import DehazeModel, cut_batches
from dehazexl_cli.models.ending import AffineEnding

CELL = 32  # pixels per side of what counts as a place's brightness
DRAFT = 4  # pixels per side that drafts take together


@dataclass(frozen=True)
class Loss:
    """L1 of images [b, 3, height, width], plus weighted terms.

    Images under dense haze have many times the error of others. With a knee, the logarithm gives each image
    a say by its share, as the mean of their PSNR does.
    """

    frequency: float = 0.05  # weight of the error of the 2-D spectrum
    cells: float = 0.3  # weight of the error of means of CELL x CELL pixels: a scene's brightness is hardest
    drafts: float = 0.2  # weight of the error of what each coarser stage makes by itself, if a model has such
    seam: float = 0.0  # weight of steps in the error where patches meet
    knee: float = 0.1  # from which error on it counts by its logarithm only; 0: all count as they are

    def __call__(self, output: Tensor, clear: Tensor, patch: int) -> Tensor:
        """The loss of outputs made of `patch`-pixel patches."""
        error = output.float() - clear.float()
        loss = error.abs().mean((1, 2, 3))
        if self.frequency:
            loss = loss + self.frequency * spectrum_error(error)
        if self.cells:
            loss = loss + self.cells * F.avg_pool2d(error, min(CELL, *error.shape[2:])).abs().mean((1, 2, 3))
        if self.seam and max(error.shape[2:]) > patch:
            loss = loss + self.seam * seam_error(error, patch)
        if self.knee:
            loss = self.knee * torch.log1p(loss / self.knee)
        return loss.mean()


def spectrum_error(error: Tensor) -> Tensor:
    """Mean absolute real and imaginary part of each error's Fourier coefficients [b], as published.

    Coefficients are scaled by 1/sqrt(pixels), so that the term means the same at every crop size.
    """
    return torch.view_as_real(torch.fft.rfft2(error, norm="ortho")).abs().mean((1, 2, 3, 4))


def seam_error(error: Tensor, patch: int) -> Tensor:
    """Mean step of each error [b] from one patch to the next; where the error is smooth there is none."""
    down = error[:, :, patch::patch] - error[:, :, patch - 1 : -1 : patch]
    right = error[:, :, :, patch::patch] - error[:, :, :, patch - 1 : -1 : patch]
    return torch.cat([down.flatten(1), right.flatten(1)], dim=1).abs().mean(1)


class Drafts:
    """Looks on as a model trains, and tells how well its coarser stages would do by themselves.

    The finest stages learn first. Without an error of their own, the coarser ones, the mixer with them, are
    left nothing to do, and end in constants that tell no place from another.
    """

    def __init__(self, model: DehazeModel) -> None:
        self._maps: list[Tensor] = []  # of the newest batch
        self._ending: AffineEnding | None = None
        for module in model.modules():
            if isinstance(module, AffineEnding):
                self._ending = module
                module.register_forward_hook(self._look)

    def error(self, hazy: Tensor, clear: Tensor, patch: int) -> Tensor:
        """Sum over the stages of the mean error of the drafts for the images [b, 3, height, width] just seen.

        Nothing, if the model makes no drafts.
        """
        error = hazy.new_zeros(())
        if self._ending is None:
            return error
        maps, self._maps = self._maps, []
        height, width = hazy.shape[2:]
        grid = PatchGrid(height, width, patch)
        hazy, clear = (
            F.avg_pool2d(cut_batches(image, grid, len(image) * len(grid))[0].pixels, DRAFT)
            for image in (hazy, clear)
        )
        return error + sum((draft - clear).abs().mean() for draft in self._ending.drafts(maps, hazy))

    def _look(self, ending: nn.Module, inputs: tuple[list[Tensor], Tensor], output: Tensor) -> None:
        if ending.training:
            self._maps = inputs[0]
