"""What a site's half of a strategy may use: the private steps that one secure sum is charged for, and no records."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hortus.privacy.step import PrivateStep, nominal_batch
from hortus.protocol.privacy import Noise
from hortus.runtime.errors import HortusError

Summed = Callable[[int], tuple[NDArray[np.float64], int]]
Noised = Callable[[int, NDArray[np.float64], int], NDArray[np.int64]]


class LocalStep:
    """The private steps of one secure sum at one site.

    A strategy cannot take more of them than are charged, and cannot look at one that only the noise of others
    makes private: either is refused here, whatever the strategy says of itself.

    Args:
        encoding: The step's numbers.
        start: float32[d], the adapter that the server sent; the model holds it.
        summed: Returns what the fresh sample of a step adds up to, float64[words], and how many units are in it.
        noised: Takes a step's number, its sum and its units, and returns the release, int64[words].
        load: Puts an adapter, float32[d], into the model.
    """

    def __init__(
        self,
        encoding: PrivateStep,
        start: NDArray[np.float32],
        summed: Summed,
        noised: Noised,
        load: Callable[[NDArray[np.float32]], None],
    ) -> None:
        self.start = start
        self.steps = encoding.contract.training.local_steps
        self._encoding = encoding
        self._summed = summed
        self._noised = noised
        self._load = load
        self._taken = 0

    def release(self) -> NDArray[np.int64]:
        """Takes the private step at `start`; returns it as it is summed, int64[words].

        With `noise: distributed` it holds a share of the noise only: to be returned as it is.

        Raises:
            HortusError: As many steps as are charged have been taken.
        """
        number = self._next()
        total, units = self._summed(number)
        if self._encoding.mechanism is None:
            nominal = nominal_batch(self._encoding.contract)
            return self._encoding.fixed_point.encode(total / nominal)
        return self._noised(number, total, units)

    def gradient(self, adapter: NDArray[np.float32]) -> NDArray[np.float64]:
        """Takes a private step at an adapter, float32[d]; returns the noisy mean gradient, float64[d].

        Raises:
            HortusError: As many steps as are charged have been taken, or the site's own noise does not make
                a step private.
        """
        encoding = self._encoding
        if encoding.contract.privacy.noise is Noise.DISTRIBUTED or encoding.rule.moves:
            raise HortusError(
                "a site may not look at its own step: only the sum of the sites' noise makes it private",
                where="privacy.noise",
                remedy="Set it to local, or use strategy.kind: fedsgd.",
            )
        number = self._next()
        self._load(adapter)
        total, units = self._summed(number)
        if encoding.mechanism is not None:
            ring = self._noised(number, total, units)
            total = encoding.mechanism.decode(ring.astype(np.uint32))
        return encoding.mean_gradient(total, sites=1)

    def encode(self, vector: NDArray[np.float64]) -> NDArray[np.int64]:
        """Returns what was made of gradients, float64[d], as it is summed, int64[d].

        Coordinates are cut to ±16.
        """
        return self._encoding.fixed_point.encode(vector)

    def _next(self) -> int:
        """Returns the number of the next step, from 0."""
        if self._taken >= self.steps:
            raise HortusError(
                f"the strategy asks for more than the {self.steps} private steps that a sum is charged for",
                where="training.local_steps",
            )
        self._taken += 1
        return self._taken - 1
