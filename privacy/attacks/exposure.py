"""Memorisation: how much likelier a model finds a secret that it was trained on than others of its kind.

The exposure of Carlini et al., "The Secret Sharer" (2019), Section 4, with the rank taken among a random sample
of all secrets.
"""

import math

import numpy as np
from numpy.typing import NDArray


def exposure(secret: float, others: NDArray[np.float64]) -> float:
    """Returns the exposure of a secret in bits: log2(n + 1) - log2(rank).

    0 to log2(n + 1); on average log2(e) = 1.44 for a model that knows nothing of the secret, whose rank is uniform.

    Args:
        secret: The model's loss on the secret; NaN counts as the largest.
        others: float64 (n,), its losses on other secrets that might as well have been it. Ties count against it.
    """
    ahead = int(np.sum(~(np.asarray(others) > secret)))
    return math.log2((len(others) + 1) / (ahead + 1))
