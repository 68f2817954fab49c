"""Photos, or noise in their place, for made pictures to stand on."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np


def textures_from(given: Sequence[np.ndarray] | None, photos: Sequence[str]) -> list:
    """Textures as PIL images in RGB.

    Args:
        given: uint8 (H, W, 3) each, at least one; None for photos that come with scikit-image, or
            smooth noise where it is not installed.
        photos: their file names, without suffix.

    Raises:
        ValueError: arrays of another shape or type, or none.
    """
    from PIL import Image

    if given is not None:
        wrong = [a for a in given if a.dtype != np.uint8 or a.ndim != 3 or a.shape[2] != 3]
        if wrong or not len(given):
            got = f"{wrong[0].dtype} {wrong[0].shape}" if wrong else "none"
            raise ValueError(f"textures must be uint8 arrays (H, W, 3), at least one, got {got}")
        return [Image.fromarray(array) for array in given]
    found = find_spec("skimage")
    if found is not None and found.origin is not None:
        folder = Path(found.origin).parent / "data"
        paths = sorted(path for path in folder.glob("*") if path.stem in photos)
        return [Image.open(path).convert("RGB") for path in paths]
    coarse = np.random.default_rng(0).integers(0, 256, (12, 12, 16, 3), np.uint8)
    return [Image.fromarray(a).resize((512, 384), Image.Resampling.BICUBIC) for a in coarse]
