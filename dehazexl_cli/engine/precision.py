"""Which number type a processor computes fastest in: measured once, and remembered."""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F

TOKENS, WIDTH, WINDOW, HEADS = 4096, 128, 64, 4  # of a middling stage of the small network
REPEATS = 5


def prefers_bf16() -> bool:
    """Whether this processor has bfloat16 in hardware, and what networks here do is faster in it."""
    if not has_bf16():
        return False
    seconds = remembered()
    return seconds["bf16"] < seconds["fp32"]


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (without it, bf16 is slower than fp32)."""
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())


def remembered() -> dict[str, float]:
    """Seconds of a piece of work by number type, measured where none are remembered of this machine."""
    path, key = cache_file(), machine()
    known = known_in(path)
    if key not in known:
        known[key] = measured()
        with suppress(OSError):  # a home that cannot be written costs a fifth of a second each time
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}")
            temporary.write_text(json.dumps(known))
            temporary.replace(path)
    return known[key]


def known_in(path: Path) -> dict[str, dict[str, float]]:
    """What a file remembers of machines; nothing, if it is not what was written."""
    try:
        return {
            key: {name: float(seconds[name]) for name in ("fp32", "bf16")}
            for key, seconds in json.loads(path.read_text()).items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def cache_file() -> Path:
    """Where it is remembered."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "dehazexl" / "precision.json"


def machine() -> str:
    """What the measurement holds for."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{model}, {capability}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def measured() -> dict[str, float]:
    """The shortest time of each number type; they take turns, so that what disturbs one disturbs both."""
    work = {"fp32": Work(torch.float32), "bf16": Work(torch.bfloat16)}
    best = dict.fromkeys(work, float("inf"))
    with torch.inference_mode():
        for _ in range(REPEATS):
            for name, piece in work.items():
                began = time.perf_counter()
                piece()
                best[name] = min(best[name], time.perf_counter() - began)
    return best


class Work:
    """A window-attention block as the networks have them: projections, attention, a hidden layer, norms."""

    def __init__(self, dtype: torch.dtype) -> None:
        rng = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> torch.Tensor:
            return (torch.randn(*shape, generator=rng) / shape[-1] ** 0.5).to(dtype)

        self.x = draw(TOKENS // WINDOW, WINDOW, WIDTH)
        self.qkv, self.up, self.down = draw(3 * WIDTH, WIDTH), draw(4 * WIDTH, WIDTH), draw(WIDTH, 4 * WIDTH)

    def __call__(self) -> torch.Tensor:
        """Once through the block."""
        x = F.layer_norm(self.x, (WIDTH,))
        heads = F.linear(x, self.qkv).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + F.scaled_dot_product_attention(*heads.unbind(0)).transpose(1, 2).flatten(2)
        return x + F.linear(F.gelu(F.linear(x, self.up)), self.down)
