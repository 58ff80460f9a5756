"""Seeds, every random state a resumed run needs, and draws from several arrays together."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> torch.Generator:
    """Seed Python, numpy and torch (all devices); return the CPU generator that batches are drawn from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def get_state(generator: torch.Generator) -> dict[str, Any]:
    """All random states as tensors and plain lists, fit for `weights_only` loading."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "generator": generator.get_state(),
        "torch": torch.get_rng_state(),
        # the current device's alone: asking the others for theirs would take memory on each
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],
        "python": [version, list(internal), gauss],
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
    }


def set_state(state: dict[str, Any], generator: torch.Generator) -> None:
    """Put back what `get_state` returned. A CUDA state is put back where CUDA is in use."""
    generator.set_state(state["generator"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"][0])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))


def draw_positions(candidates: Sequence[np.ndarray], count: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Draw positions without repetition, uniformly over several arrays together.

    Args:
        candidates: bool arrays of any shapes, True where a position may be drawn.
        count: how many, at most as many as there are candidates.
        generator: draws; with a count of 0 it stays as it is.
    Returns:
        for each array, int64 [drawn there]: positions in the flattened array, rising.
    """
    places = [np.flatnonzero(array) for array in candidates]
    starts = np.cumsum([0, *map(len, places)])
    drawn = np.sort(generator.choice(starts[-1], count, replace=False))
    parts = np.split(drawn, np.searchsorted(drawn, starts[1:-1]))
    return [place[part - start] for place, part, start in zip(places, parts, starts)]
