"""Ways from a scene without haze to the hazy one, and how fast each pixel moves along them.

Both take pixels [..., 3, height, width] in [0, 1] and alpha from 0, without haze, to 1, hazy. Where a pixel
is the same at both ends it never moves, so that nothing is ever attributed to it.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

CLEAREST, DENSEST = 255.0, 1 / 255  # transmissions beyond which 8 bits could not show the pixel


class Path(Protocol):
    """A way from clear to hazy pixels, each pixel by itself."""

    name: str

    def point(self, alpha: float, hazy: Tensor, clear: Tensor) -> Tensor:
        """Pixels at `alpha`; `clear` at 0 and `hazy` at 1."""
        ...

    def slope(self, alpha: float, hazy: Tensor, clear: Tensor) -> Tensor:
        """The derivative of `point` by alpha."""
        ...


class Blend:
    """The straight way, X = (1 - alpha) J + alpha I.

    For I = J t + A (1 - t) this is the scattering model with the transmission 1 - alpha (1 - t).
    """

    name = "blend"

    def point(self, alpha: float, hazy: Tensor, clear: Tensor) -> Tensor:
        """Pixels at `alpha`."""
        return torch.lerp(clear, hazy, alpha)

    def slope(self, alpha: float, hazy: Tensor, clear: Tensor) -> Tensor:
        """The derivative, the same everywhere."""
        return hazy - clear


class Transmission:
    """The way of haze that grows denser: X = A - (A - J) t^alpha, the scattering model with t^alpha.

    The transmission t = (A - I) / (A - J) follows for each number of each pixel from both ends and the
    airlight A. Where it says none (a pixel on the other side of the airlight than its clear form, or at it),
    the way is straight.
    """

    name = "transmission"

    def __init__(self, airlight: Tensor) -> None:
        self.airlight = airlight  # [3]

    def point(self, alpha: float, hazy: Tensor, clear: Tensor) -> Tensor:
        """Pixels at `alpha`."""
        distance, t, physical = self._haze(hazy, clear)
        return torch.where(physical, clear + distance * (1 - t**alpha), torch.lerp(clear, hazy, alpha))

    def slope(self, alpha: float, hazy: Tensor, clear: Tensor) -> Tensor:
        """The derivative, -(A - J) t^alpha ln t."""
        distance, t, physical = self._haze(hazy, clear)
        return torch.where(physical, -distance * t**alpha * t.log(), hazy - clear)

    def _haze(self, hazy: Tensor, clear: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A - J, the transmission, and where that is one; it is 1 elsewhere."""
        airlight = self.airlight.to(hazy).view(3, 1, 1)
        distance = airlight - clear
        t = (airlight - hazy) / distance
        physical = (t >= DENSEST) & (t <= CLEAREST)  # NaN and infinity are neither
        return distance, torch.where(physical, t, 1.0), physical


def airlight_of(pixels: Tensor) -> Tensor:
    """The colour [3] of the densest haze among pixels [3, n]: of the thousandth brightest in their darkest.

    He, Sun and Tang, "Single Image Haze Removal Using Dark Channel Prior", CVPR 2009, section 4.4, without
    its patches, as the pixels may be thinned.
    """
    count = max(1, pixels.shape[1] // 1000)
    return pixels[:, pixels.amin(0).topk(count).indices].mean(1)
