"""A number that says how good a model is, with all that a reader needs to understand it.

A task returns metrics, a run's store keeps them whole, and whatever shows a run goes by what they say of
themselves: nothing but the task knows what was measured.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

_Item = TypeVar("_Item")
NOT_FINITE, NOT_MEASURED = "not finite", "–"
_LONG = 1e4  # from here on a plain number is written without decimals
_ENDLESS = 1e15  # and from here on with an exponent


class Unit(StrEnum):
    """What a value counts, and so how it is written."""

    PERCENT = "percent"
    """A share of one: 0.834 is 83.4 %."""
    POINTS = "points"
    """On a scale that ends at 100, such as BLEU: 41.3."""
    NATS = "nats"
    """An entropy or a mean log-likelihood: 0.693 nats."""
    COUNT = "count"
    """How many: 1,024."""
    NUMBER = "number"
    """Anything else, such as a perplexity: 18.02."""

    @property
    def word(self) -> str:
        """What is counted, where that is a word: it stands once above a column of numbers."""
        return "nats" if self is Unit.NATS else ""

    @property
    def scale(self) -> float | None:
        """The most that a value can be; None where it has no such end."""
        return {Unit.PERCENT: 1.0, Unit.POINTS: 100.0}.get(self)

    def drawn(self, value: float) -> float:
        """Returns a value as an axis has it."""
        return 100 * value if self is Unit.PERCENT else value

    def figure(self, value: float) -> str:
        """Writes a value without a word."""
        if self is Unit.PERCENT:
            return f"{100 * value:.1f} %"
        is_long = self is Unit.NUMBER and _LONG <= abs(value) < _ENDLESS
        how = {Unit.POINTS: ".1f", Unit.NATS: ".3f", Unit.COUNT: ",.0f", Unit.NUMBER: ".4g"}[self]
        return format(value, ",.0f" if is_long else how)

    def text(self, value: float) -> str:
        """Writes a value."""
        return f"{self.figure(value)} {self.word}".rstrip()


class Better(StrEnum):
    """Which of two values is the better one."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Chance:
    """What is reached without having learnt anything.

    Attributes:
        value: In the metric's unit.
        by: How, such as "always naming the most frequent label".
    """

    value: float
    by: str

    def __post_init__(self) -> None:
        """Refuses what nothing can be compared with."""
        if not math.isfinite(self.value):
            raise ValueError(f"the value of {self.by} has to be finite")


@dataclass(frozen=True, slots=True)
class Part:
    """A metric of some of the records.

    Attributes:
        label: Which, such as a class.
        count: How many there are of what is counted.
        value: In the metric's unit; None where it is not finite.
    """

    label: str
    count: int
    value: float | None

    def __post_init__(self) -> None:
        """Makes plain numbers of whatever a library gave."""
        object.__setattr__(self, "count", int(self.count))
        object.__setattr__(self, "value", finite(self.value))


@dataclass(frozen=True, slots=True)
class Breakdown:
    """What a metric is for each part of the records.

    Attributes:
        of: What the parts' values are, such as "F1".
        by: What tells the parts apart, such as "label".
        counted: What is counted in a part, such as "records".
        parts: In the task's order.
    """

    of: str
    by: str
    counted: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured number.

    Attributes:
        name: For programs, such as "macro_f1".
        value: What was measured; None where no finite number came out, as after training has diverged.
        unit: What it counts.
        better: Which way is better.
        primary: Whether a run is judged by it; one of the metrics that belong together is.
        label: For people, within a sentence, such as "macro F1"; the name where it is left out.
        meaning: A sentence that explains it; may be empty.
        chance: What it is without having learnt anything; None where the task knows of nothing.
        breakdown: What it is for each part of the records; None where there is nothing to break down. A run
            keeps it for its last rounds and its best one.
    """

    name: str
    value: float | None
    unit: Unit
    better: Better
    primary: bool = False
    label: str = ""
    meaning: str = ""
    chance: Chance | None = None
    breakdown: Breakdown | None = None

    def __post_init__(self) -> None:
        """Makes a plain number of whatever float a library gave."""
        object.__setattr__(self, "value", finite(self.value))
        object.__setattr__(self, "label", self.label or self.name)

    @property
    def text(self) -> str:
        """The value with its unit."""
        return NOT_FINITE if self.value is None else self.unit.text(self.value)

    def cell(self, value: float | None) -> str:
        """Writes a value of this metric into a column that `column` stands above."""
        return NOT_FINITE if value is None else self.unit.figure(value)

    @property
    def title(self) -> str:
        """The label where a sentence, or a heading, begins."""
        return self.label[:1].upper() + self.label[1:]

    @property
    def column(self) -> str:
        """What stands above a column of such values."""
        return f"{self.label}, {self.unit.word}" if self.unit.word else self.label

    @property
    def axis(self) -> str:
        """What stands beside an axis of such values."""
        quantity = f"{self.label}, %" if self.unit is Unit.PERCENT else self.column
        return f"{quantity} (lower is better)" if self.better is Better.LOWER else quantity

    @property
    def explained(self) -> str:
        """What a reader needs to judge a value, in full sentences."""
        return f"{self.meaning} {self.better.value.capitalize()} is better.".strip()

    def worst_first(self) -> tuple[Part, ...]:
        """Returns the parts of the breakdown, the worst first; none without one."""
        parts = () if self.breakdown is None else self.breakdown.parts
        return tuple(sorted(parts, key=lambda part: replace(self, value=part.value).gain(0.0)))

    def gain(self, over: float) -> float:
        """Returns by how much the value is better than another; negative where it is worse, or not finite."""
        if self.value is None:
            return -math.inf
        return self.value - over if self.better is Better.HIGHER else over - self.value


Metrics = tuple[Metric, ...]


def check_metrics(metrics: Metrics) -> None:
    """Refuses metrics that do not belong together.

    Raises:
        ValueError: Two have one name, or not exactly one of them is primary.
    """
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise ValueError(f"two metrics have one name: {', '.join(names)}")
    leading = [metric.name for metric in metrics if metric.primary]
    if metrics and len(leading) != 1:
        raise ValueError(
            f"exactly one metric has to be primary, of {', '.join(names)}: "
            f"{' and '.join(leading) or 'none'} is"
        )


def primary(metrics: Metrics) -> Metric | None:
    """Returns the one that a run is judged by; None where nothing was measured."""
    return next((metric for metric in metrics if metric.primary), None)


def best(items: Iterable[_Item], measured: Callable[[_Item], Metrics]) -> _Item | None:
    """Returns the item whose primary metric is best, the last of several.

    Args:
        items: What was measured, in order.
        measured: Returns an item's metrics. Those that have another primary metric than the last item do
            not compare, and are left out.

    Returns:
        None where nothing was measured, or no number is finite.
    """
    found: tuple[_Item, float] | None = None
    ranked = [(item, one) for item in items if (one := primary(measured(item))) is not None]
    for item, one in ranked:
        if one.value is None or one.name != ranked[-1][1].name:
            continue
        if found is None or one.gain(found[1]) >= 0:
            found = item, one.value
    return None if found is None else found[0]


def columns(rows: Iterable[Metrics]) -> Metrics:
    """Returns a table's columns: a metric for each name that any row has, the primary one first."""
    named: dict[str, Metric] = {}
    for metrics in rows:
        for metric in metrics:
            named[metric.name] = metric
    return tuple(sorted(named.values(), key=lambda metric: not metric.primary))


def cells(metrics: Metrics, among: Sequence[Metric]) -> tuple[str, ...]:
    """Returns a table's row: each column's value as text, without the word that stands above it."""
    texts = {metric.name: metric.cell(metric.value) for metric in metrics}
    return tuple(texts.get(column.name, NOT_MEASURED) for column in among)


def without_breakdowns(metrics: Metrics) -> Metrics:
    """Returns metrics of the whole alone."""
    return tuple(replace(metric, breakdown=None) for metric in metrics)


def values(metrics: Metrics) -> dict[str, float]:
    """Returns the values by name, for programs that know what was measured; NaN where one is not finite."""
    return {one.name: math.nan if one.value is None else one.value for one in metrics}


def finite(value: float | None) -> float | None:
    """Returns a number as JSON can hold it; None where it is infinite or not a number."""
    return None if value is None or not math.isfinite(value) else float(value)
