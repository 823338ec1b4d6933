"""Why a run is as good as it is: what its numbers are compared with, and what to change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from hortus.learning.methods.kinds import METHODS
from hortus.protocol.plan import Plan
from hortus.protocol.privacy import Noise
from hortus.runtime.metric import Better, Metric, Unit
from hortus.server.run.records import RoundRecord

# As shares of a metric's scale, or where it has none of the value that another is compared with.
_ABOVE_CHANCE = 0.03
_STILL_BETTER = 0.01  # in a round
_LOST = 0.02
_LOUD, _QUIET = 2.0, 0.5  # noise over signal
_NEARLY_ALL, _HARDLY_ANY = 0.95, 0.1


@dataclass(frozen=True, slots=True)
class Compared:
    """What only a simulation knows.

    Attributes:
        best_alone: The primary metric of the best site alone, without privacy.
        without_privacy: The primary metric of the same plan without privacy.
        cut: Share of the units whose gradients were clipped, with the last adapter.
    """

    best_alone: float | None = None
    without_privacy: float | None = None
    cut: float | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is told.

    Attributes:
        measures: By name, as text.
        advice: Sentences: what the measures say, and what to change.
    """

    measures: Mapping[str, str]
    advice: tuple[str, ...]


def diagnose(plan: Plan, rounds: Sequence[RoundRecord], compared: Compared) -> Diagnosis:
    """Compares a run's numbers with others.

    Args:
        plan: Its plan.
        rounds: Finished rounds, in order.
        compared: What else is known.
    """
    reached = [metric for one in rounds if (metric := one.primary) is not None]
    ratios = [one.noise_to_signal for one in rounds if one.noise_to_signal is not None]
    noise = median(ratios[-max(1, len(ratios) // 3) :]) if ratios else None
    measures = _measures(reached[-1], compared) if reached else {}
    if compared.cut is not None:
        measures["units whose gradients are clipped, with the last adapter"] = Unit.PERCENT.text(
            compared.cut
        )
    if noise is not None:
        measures["noise over signal in a sum, last rounds"] = f"{noise:.2g}"
    told = (
        _of_result(reached[-1], compared) if reached else _UNMEASURED,
        _of_noise(plan, noise),
        _of_clipping(plan, compared.cut),
        _of_length(reached),
    )
    return Diagnosis(measures, tuple(sentence for sentence in told if sentence))


_UNMEASURED = "The plan names no evaluation records, so nobody can say how good the model is: add `evaluation`."


def _measures(reached: Metric, compared: Compared) -> dict[str, str]:
    measures = {f"{reached.label} reached": reached.text}
    if reached.chance is not None:
        measures[reached.chance.by] = reached.unit.text(reached.chance.value)
    if compared.best_alone is not None:
        measures["best site alone, without privacy"] = reached.unit.text(compared.best_alone)
    if compared.without_privacy is not None:
        measures["the same plan without privacy"] = reached.unit.text(compared.without_privacy)
    return measures


def _margin(metric: Metric, other: float, share: float) -> float:
    """Returns what is a small difference from another value, in the metric's unit."""
    return share * (metric.unit.scale or abs(other))


def _of_result(reached: Metric, compared: Compared) -> str:
    chance, other = reached.chance, compared.without_privacy
    if reached.value is None:
        return (
            f"{reached.title} is not finite: training has diverged. Try a smaller learning rate, and first "
            "without privacy (hortus simulate --baselines)."
        )
    if chance and reached.gain(chance.value) < _margin(reached, chance.value, _ABOVE_CHANCE):
        return (
            f"This is no better than {chance.by}: nothing was learnt. Look first at whether the plan learns "
            "without privacy (hortus simulate --baselines)."
        )
    if other is None:
        return ""
    if -reached.gain(other) < _margin(reached, other, _LOST):
        return (
            f"Privacy costs next to nothing here: {reached.label} is limited by the records, the base model "
            "or the length of the training."
        )
    return _price(reached, reached.value, other)


def _price(reached: Metric, value: float, other: float) -> str:
    """Says what privacy costs: in points where they are of a scale that all know, otherwise by both values."""
    if reached.unit.scale is None:
        changes = "raises" if value > other else "lowers"
        unprotected = reached.unit.text(other)
        return f"Privacy {changes} {reached.label} from {unprotected} to {reached.text}."
    points = f"{abs(reached.unit.drawn(value) - reached.unit.drawn(other)):.1f} points"
    if reached.better is Better.LOWER:
        return f"Privacy adds {points} to {reached.label}."
    return f"Privacy costs {points} of {reached.label}."


def _of_noise(plan: Plan, noise: float | None) -> str:
    if noise is None:
        return ""
    if noise > _LOUD:
        fewer = (
            ""
            if METHODS.parse(plan.adapter).trains_heads_alone
            else ", or fewer trained numbers (adapter.rank, adapter.layers)"
        )
        return (
            f"In a sum, the noise is {noise:.2g} times the signal. These help at the same ε: more records in "
            f"a step (training.sampling_rate) and fewer steps, more sites or records{fewer}. A larger ε helps "
            "as well."
        )
    if noise < _QUIET:
        return "The noise is well below the signal, so a smaller ε would cost little."
    return ""


def _of_clipping(plan: Plan, cut: float | None) -> str:
    if cut is None or plan.privacy.noise is Noise.UNSAFE_NONE:
        return ""
    if cut < _HARDLY_ANY:
        return (
            "Few gradients reach the clipping norm: a privacy.clipping_norm below "
            f"{plan.privacy.clipping_norm:g} adds less noise and clips hardly more."
        )
    if cut > _NEARLY_ALL:
        return (
            "Nearly every gradient is clipped, so all units count alike. That is usual; a larger "
            "privacy.clipping_norm is worth a try if the noise is below the signal."
        )
    return ""


def _of_length(reached: Sequence[Metric]) -> str:
    third = len(reached) // 3
    if not third or (before := reached[-1 - third].value) is None:
        return ""
    last = reached[-1]
    if last.gain(before) > _margin(last, before, _STILL_BETTER) * third:
        moving = "rising" if last.better is Better.HIGHER else "falling"
        return (
            f"{last.title} was still {moving} at the end: more rounds help (hortus plan says what they cost), or a "
            "larger learning rate."
        )
    return ""
