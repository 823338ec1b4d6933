"""Two gradient engines on the same made-up records: do they find the same gradients, norms and clipped sum?"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from hortus.learning.loader import Encoded
from hortus.privacy.gradients.clipping.kinds import CLIPPINGS
from hortus.privacy.gradients.engine import PerUnitGradients
from hortus.privacy.gradients.engines.base import GradientEngine
from hortus.privacy.gradients.engines.kinds import ENGINES
from hortus.privacy.gradients.workbench import Workbench
from hortus.protocol.plan import Agreement
from hortus.protocol.section import Section

TOLERANCE = 1e-4
"""Of a gradient's norm, and of the sum's. Float32 sums in another order differ by about 1e-6 of it."""
_UNITS = 8
_SEED = 15


@dataclass(frozen=True, slots=True)
class Compared:
    """What two engines make of one unit.

    Attributes:
        tokens: Of each of its records, all sequences together.
        norms: Of its gradient, by each engine.
        difference: Norm of the gradients' difference, over the larger of the two norms.
        parameter: Whose gradients differ the most.
    """

    tokens: tuple[int, ...]
    norms: tuple[float, float]
    difference: float
    parameter: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What two engines make of one step.

    Attributes:
        engines: Their names, the plan's first.
        units: The step's units.
        sums: Norms of the clipped sums.
        difference: Norm of the sums' difference, over the larger of the two norms.
    """

    engines: tuple[str, str]
    units: tuple[Compared, ...]
    sums: tuple[float, float]
    difference: float

    @property
    def worst(self) -> Compared:
        """The unit whose gradients differ the most."""
        return max(self.units, key=lambda unit: unit.difference)

    @property
    def agree(self) -> bool:
        """Whether every gradient and the sum agree within the tolerance; NaN agrees with nothing."""
        return all(one <= TOLERANCE for one in (self.difference, self.worst.difference))


def verify(workbench: Workbench, plan: Agreement) -> Verification:
    """Sends one step of made-up records through a plan's engine, and through another.

    That is `opacus` where the plan's own is `hortus`, else `hortus`. The adapter is moved from where it starts, where
    most gradients are 0.

    Args:
        workbench: The plan's.
        plan: The plan.

    Raises:
        UsageError: An engine cannot follow a parameter.
    """
    own = ENGINES.parse(plan.privacy.engine)
    other = ENGINES.parse(Section(kind="opacus" if own.kind == "hortus" else "hortus"))
    records = _made_up(workbench, plan)
    with workbench.moved():
        found = [_step(workbench, plan, engine, records) for engine in (own, other)]
    (ours, our_sum), (theirs, their_sum) = found
    sizes = PerUnitGradients(workbench.model, own).sizes
    units = tuple(
        _compared(sizes, _tokens(records, unit), ours[unit], theirs[unit])
        for unit in range(len(ours))
    )
    return Verification(
        (own.kind, other.kind),
        units,
        *_difference(torch.from_numpy(our_sum), torch.from_numpy(their_sum)),
    )


def _made_up(workbench: Workbench, plan: Agreement) -> Encoded:
    """Records of lengths from 1 to the longest, as units of as many records as the plan allows, and of fewer."""
    of_unit = (plan.privacy.max_records_per_unit or 1) * workbench.task.most_examples
    longest = workbench.task.max_length
    counts = [1 + unit % of_unit for unit in range(_UNITS - 1)] + [of_unit]
    units = np.repeat(np.arange(_UNITS), counts)
    lengths = np.linspace(longest, 1, len(units)).round().astype(int)
    made_up = workbench.loader.made_up([(int(n),) for n in lengths], _SEED)
    return workbench.loader.ahead(replace(made_up, units=units))


def _tokens(records: Encoded, unit: int) -> tuple[int, ...]:
    return tuple(
        sum(records.examples[i].lengths) for i in np.flatnonzero(records.units == unit).tolist()
    )


def _step(
    workbench: Workbench, plan: Agreement, engine: GradientEngine, records: Encoded
) -> tuple[dict[int, torch.Tensor], NDArray[np.float64]]:
    """Returns the gradient of each unit, float (d,), and the clipped sum, float64[d]."""
    gradients = PerUnitGradients(workbench.model, engine)
    indices = np.arange(len(records))
    passes = list(workbench.loader.batches(records, indices, plan.training.micro_batch))
    of_units = {}
    for batch, rows in zip(passes, gradients.each(passes), strict=True):
        owners = records.units[batch.index]
        for number, row in enumerate(rows):
            (unit,) = np.unique(owners[batch.units.cpu().numpy() == number])
            of_units[int(unit)] = row.detach().double().cpu()
    clipping = CLIPPINGS.parse(plan.privacy.clipping).at(plan.privacy.clipping_norm)
    return of_units, gradients.clipped_sum(passes, clipping).total


def _compared(
    sizes: Mapping[str, int], tokens: tuple[int, ...], ours: torch.Tensor, theirs: torch.Tensor
) -> Compared:
    norms, difference = _difference(ours, theirs)
    apart = [part.norm() for part in torch.split(ours - theirs, list(sizes.values()))]
    return Compared(tokens, norms, difference, list(sizes)[int(torch.stack(apart).argmax())])


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[tuple[float, float], float]:
    norms = (float(ours.norm()), float(theirs.norm()))
    return norms, float((ours - theirs).norm()) / max(*norms, np.finfo(np.float64).tiny)
