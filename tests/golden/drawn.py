"""Random weights that are a function of their names, so that two programs that share no code can hold the same model.

NumPy only: this file is read in OpenFlamingo's environment as well.
"""

import zlib
from collections.abc import Iterable

import numpy as np


def drawn(name: str, shape: Iterable[int]) -> np.ndarray:
    """float32, of a size at which every weight shows: matrices keep the scale of what goes through them."""
    shape = tuple(shape)
    # RandomState's stream is frozen by NumPy's own promise; default_rng's is not.
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("_gate"):
        values = 0.5 + 0.2 * values
    elif len(shape) == 1:
        values = (1.0 if name.endswith("weight") else 0.0) + 0.2 * values  # norms and biases
    elif "embed" in name or "wte" in name:
        values = 0.3 * values  # what layers add shall count for more than the token itself
    elif "latents" not in name:
        values = values / np.sqrt(np.prod(shape[1:]))
    return values.astype(np.float32)
