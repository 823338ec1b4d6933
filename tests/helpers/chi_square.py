"""χ² of numbers drawn from a symmetric law on the integers against its masses."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

Mass = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def p_value(drawn: NDArray[np.int64], sigma: int, mass: Mass, cells: int = 400) -> float:
    """Returns the probability of so bad a fit or a worse one.

    Args:
        drawn: The numbers.
        sigma: The law's standard deviation, nearly.
        mass: Masses of integers n ≥ 0, times any constant.
        cells: Most cells within four standard deviations.
    """
    edges = _edges(sigma, cells)
    observed = np.bincount(np.searchsorted(edges, drawn), minlength=len(edges) + 1)
    share = _expected(sigma, mass, edges)
    keep = share * len(drawn) > 5
    statistic = np.sum((observed - share * len(drawn))[keep] ** 2 / (share * len(drawn))[keep])
    return float(chi2.sf(statistic, int(keep.sum()) - 1))


def _edges(sigma: int, cells: int) -> NDArray[np.float64]:
    """Edges between integers, over ±4σ; with 400 cells they hold single integers to σ = 50."""
    step = max(1, round(8 * sigma / cells))
    return np.arange(-4 * sigma, 4 * sigma + step, step) - 0.5


def _expected(sigma: int, mass: Mass, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    n = np.arange(10 * sigma + 20, dtype=np.float64)
    half = mass(n)
    both, masses = np.concatenate([-n[:0:-1], n]), np.concatenate([half[:0:-1], half])
    cells = np.bincount(np.searchsorted(edges, both), weights=masses, minlength=len(edges) + 1)
    return cells / cells.sum()
