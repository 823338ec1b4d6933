"""Why a run is as accurate as it is: what its numbers are held against, and what to change."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from hortus.learning.data.records import read_records
from hortus.protocol.plan import Noise, Plan
from hortus.runtime.errors import UsageError
from hortus.server.run.records import RoundRecord

_ABOVE_CHANCE = 0.03
_LOUD, _QUIET = 2.0, 0.5  # noise over signal
_STILL_RISING = 0.01
_NEARLY_ALL, _HARDLY_ANY = 0.95, 0.1
_LOST = 0.02


@dataclass(frozen=True, slots=True)
class Compared:
    """What only a simulation knows.

    Attributes:
        best_alone: Accuracy of the best site alone, without privacy.
        without_privacy: Accuracy of the same plan without privacy.
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


def chance_level(plan: Plan) -> float | None:
    """Returns the accuracy of always naming the label that most evaluation records have; None without any."""
    if plan.evaluation is None:
        return None
    try:
        labels = read_records(plan.evaluation, plan.task).labels
    except UsageError:
        return None  # the file was there when the run began, and need not be now
    return max(Counter(labels.tolist()).values()) / len(labels)


def diagnose(plan: Plan, rounds: Sequence[RoundRecord], compared: Compared) -> Diagnosis:
    """Holds a run's numbers against others.

    Args:
        plan: Its plan.
        rounds: Finished rounds, in order.
        compared: What else is known.
    """
    reached = [one.metrics["accuracy"] for one in rounds if "accuracy" in one.metrics]
    ratios = [one.noise_to_signal for one in rounds if one.noise_to_signal is not None]
    noise = median(ratios[-max(1, len(ratios) // 3) :]) if ratios else None
    chance = chance_level(plan)
    shares = {
        "accuracy reached": reached[-1] if reached else None,
        "always the most frequent label": chance,
        "best site alone, without privacy": compared.best_alone,
        "the same plan without privacy": compared.without_privacy,
        "units whose gradients are cut, with the last adapter": compared.cut,
    }
    measures = {name: f"{100 * share:.1f} %" for name, share in shares.items() if share is not None}
    if noise is not None:
        measures["noise over signal in a sum, last rounds"] = f"{noise:.2g}"
    told = (
        _of_accuracy(reached, chance, compared),
        _of_noise(plan, noise),
        _of_clipping(plan, compared.cut),
        _of_length(reached),
    )
    return Diagnosis(measures, tuple(sentence for sentence in told if sentence))


def _of_accuracy(reached: Sequence[float], chance: float | None, compared: Compared) -> str:
    if not reached:
        return "The plan names no evaluation records, so nothing is known of its accuracy: add `evaluation`."
    if chance is not None and reached[-1] < chance + _ABOVE_CHANCE:
        return (
            "This is no better than always naming the most frequent label: nothing was learnt. Look first at "
            "whether the plan learns without privacy (hortus simulate --baselines)."
        )
    if compared.without_privacy is None:
        return ""
    lost = compared.without_privacy - reached[-1]
    if lost < _LOST:
        return (
            "Privacy costs next to nothing here: what limits the accuracy are the records, the base model or "
            "how long it is trained."
        )
    return f"Privacy costs {100 * lost:.1f} points of accuracy."


def _of_noise(plan: Plan, noise: float | None) -> str:
    if noise is None:
        return ""
    if noise > _LOUD:
        fewer = (
            ""
            if plan.adapter.kind == "head"
            else ", or fewer trained numbers (adapter.rank, adapter.layers)"
        )
        return (
            f"In a sum the noise is {noise:.2g} times the signal. What helps, at the same ε: more records in a "
            f"step (training.sampling_rate) and fewer steps, more sites or records{fewer}. A larger ε helps as well."
        )
    if noise < _QUIET:
        return "The noise is well below the signal, so a smaller ε would cost little."
    return ""


def _of_clipping(plan: Plan, cut: float | None) -> str:
    if cut is None or plan.privacy.noise is Noise.UNSAFE_NONE:
        return ""
    if cut < _HARDLY_ANY:
        return (
            f"Few gradients reach the clipping norm: a smaller privacy.clipping_norm than "
            f"{plan.privacy.clipping_norm:g} means less noise, and cuts hardly more."
        )
    if cut > _NEARLY_ALL:
        return (
            "Nearly every gradient is cut, so all units count alike. That is usual; a larger "
            "privacy.clipping_norm is worth a try where the noise is below the signal."
        )
    return ""


def _of_length(reached: Sequence[float]) -> str:
    third = len(reached) // 3
    if third and reached[-1] - reached[-1 - third] > _STILL_RISING * third:
        return (
            "Accuracy was still rising at the end: more rounds help (hortus plan says what they cost), or a larger "
            "learning rate."
        )
    return ""
