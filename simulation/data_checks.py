"""A site's records against a plan, as its operator sees them before anything is trained or spent.

What is found stays at the site: figures here, and the texts of a few rows on its operator's own screen.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from hortus.client.site.folder import Site
from hortus.learning.data.identifiers import Finder, apart, finder_of, in_texts
from hortus.learning.data.rows import read_rows
from hortus.learning.data.survey import Fitting, Survey, counted, read_fitting, survey
from hortus.learning.data.view import View
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.base import IGNORED, Example, Task
from hortus.learning.tasks.kinds import TASKS
from hortus.privacy.accounting.forecast import SiteBudget
from hortus.runtime.errors import HortusError, UsageError
from hortus.simulation.prospect import Prospect, budgets_at

_ENCODED_AT_ONCE = 512
_UNCUT = 2**30  # tokens
_ROWS_SEARCHED = 5000


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of records in tokens, before anything is cut.

    Attributes:
        limit: The plan's `max_length`.
        mean: Of all.
        median: Likewise.
        most: Of the longest.
        cut: Share of records of which something is cut off.
        tokens_cut: Share of all tokens that is.
    """

    limit: int
    mean: float
    median: float
    most: int
    cut: float
    tokens_cut: float


@dataclass(frozen=True, slots=True)
class Units:
    """Of privacy, and their records.

    Attributes:
        unit: What one is.
        count: How many there are.
        mean: Records of one.
        most: Records of the largest.
        cap: Records of one that a step takes at most; None where records are units.
        above: Units with more.
    """

    unit: str
    count: int
    mean: float
    most: int
    cap: int | None
    above: int


@dataclass(frozen=True, slots=True)
class Identifiers:
    """What may identify somebody.

    Attributes:
        masked: Whether all of it is masked before anything is learnt.
        searched: Rows that were looked at, spread evenly over the file; 0 where no finder is installed.
        rows: Those of them in which something was found.
        kinds: Passages found, by kind.
        blind_to: What the finder does not find; or why none looked.
    """

    masked: bool
    searched: int
    rows: int
    kinds: dict[str, int]
    blind_to: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What the plan spends of one limit.

    Attributes:
        limit_of: Whose limit it is.
        delta: At which ε is stated.
        a_round: ε of one round alone; None without noise.
        whole: ε of the whole plan alone, spare attempts included; None without noise.
        spent: ε spent before; None where something was released without noise.
        limit: The limit.
        rounds_covered: Rounds that what is left covers.
        rounds: Rounds of the plan.
    """

    limit_of: str
    delta: float
    a_round: float | None
    whole: float | None
    spent: float | None
    limit: float
    rounds_covered: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens in a row of which all are learnt, or none.

    Attributes:
        text: What they say.
        learnt: Whether the loss counts them.
    """

    text: str
    learnt: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """A record as the model is given it.

    Attributes:
        pieces: Its tokens.
        target: What is learnt of it, where that is no mask over its tokens.
    """

    pieces: tuple[Piece, ...]
    target: str


@dataclass(frozen=True)
class PlanFindings:
    """A site's records as a plan's task reads them.

    Attributes:
        name: The plan's.
        records: How many fit.
        unfit: How many do not.
        faults: What is wrong with the first of these.
        lengths: None where no record fits.
        labels: For each column of words of the plan's, how often each comes.
        unseen: Words of the plan's that no record has.
        units: Whose they are.
        cost: What the plan would spend of each of the site's limits; empty where it has none for the plan's unit.
    """

    name: str
    records: int
    unfit: int
    faults: tuple[UsageError, ...]
    lengths: Lengths | None
    labels: dict[str, dict[str, int]]
    unseen: tuple[str, ...]
    units: Units
    cost: tuple[Cost, ...]


@dataclass(frozen=True)
class Findings:
    """All that was found, and what to show of it.

    Attributes:
        data: The file.
        survey: What it is like.
        identifiers: What may identify somebody.
        plan: Against the plan; None without one.
        shown: The first records, as the model is given them.
    """

    data: Path
    survey: Survey
    identifiers: Identifiers
    plan: PlanFindings | None
    shown: tuple[Shown, ...]


def check_data(site: Site, what: Prospect | None, rows: int, *, mask: bool) -> Findings:
    """Looks at a site's records; nothing is noted anywhere.

    Args:
        site: The opened site.
        what: The plan, worked out; None for the file alone.
        rows: How many records to show.
        mask: Whether to look at them as `mask_identifiers: true` would have them.

    Raises:
        UsageError: The file cannot be read, or lacks a column.
    """
    view = site.view
    if mask and view.mask is None:
        finder = finder_of(named=True)
        assert finder is not None  # noqa: S101 - that is what `true` names
        view = View(view.columns, finder.mask)
    found = survey(site.data)
    task = TASKS.parse(what.contract.task) if what else None
    identifiers = _identifiers(site, view, task, found.rows)
    if what is None or task is None:
        return Findings(site.data, found, identifiers, None, ())
    fitting = read_fitting(site.data, task, what.contract.privacy.unit_column, view)
    tokenizer = load_tokenizer(what.model_path)
    shown = tuple(one for value in fitting.values[:rows] for one in show(task, tokenizer, value))
    against = _against(site, what, task, tokenizer, fitting)
    return Findings(site.data, found, identifiers, against, shown)


def _against(
    site: Site, what: Prospect, task: Task, tokenizer: PreTrainedTokenizerBase, fitting: Fitting
) -> PlanFindings:
    labels = _labels(task, fitting.values)
    named: tuple[str, ...] = getattr(task, "labels", getattr(task, "entities", ()))
    seen = {word for words in labels.values() for word in words}
    seen |= {word.partition("-")[2] for word in seen}  # of tags
    return PlanFindings(
        what.contract.name,
        len(fitting.values),
        fitting.unfit,
        fitting.faults,
        lengths(task, tokenizer, fitting.values) if fitting.values else None,
        labels,
        tuple(word for word in named if word not in seen),
        _units(what, fitting),
        tuple(_costs(site, what)) if fitting.values and not fitting.unfit else (),
    )


def lengths(task: Task, tokenizer: PreTrainedTokenizerBase, values: Sequence[Any]) -> Lengths:
    """Returns how long records are, and what is cut off them; what is read by several windows is not cut."""
    uncut = task.model_copy(update={"max_length": _UNCUT})
    sizes = np.array(_sizes(uncut, tokenizer, values), np.int64)
    long = np.flatnonzero(sizes > task.max_length)
    windows = np.array(
        [len(task.encode(tokenizer, [values[index]])) for index in long.tolist()], np.int64
    )
    cut = long[windows == 1]
    return Lengths(
        task.max_length,
        float(sizes.mean()),
        float(np.median(sizes)),
        int(sizes.max()),
        len(cut) / len(sizes),
        float((sizes[cut] - task.max_length).sum() / sizes.sum()),
    )


def _sizes(task: Task, tokenizer: PreTrainedTokenizerBase, values: Sequence[Any]) -> list[int]:
    sizes: list[int] = []
    for start in range(0, len(values), _ENCODED_AT_ONCE):
        for example in task.encode(tokenizer, values[start : start + _ENCODED_AT_ONCE]):
            if example.continues:
                sizes[-1] += len(example.tokens)
            else:
                sizes.append(len(example.tokens))
    return sizes


def _labels(task: Task, values: Sequence[Any]) -> dict[str, dict[str, int]]:
    names = [name for name in task.columns if name not in task.texts]
    return counted(map(task.row, values), names) if names else {}


def _units(what: Prospect, fitting: Fitting) -> Units:
    privacy = what.contract.privacy
    sizes = list(Counter(fitting.units).values()) or [1] * len(fitting.values)
    cap = privacy.max_records_per_unit
    return Units(
        privacy.unit,
        len(sizes),
        sum(sizes) / max(1, len(sizes)),
        max(sizes, default=0),
        cap,
        0 if cap is None else sum(size > cap for size in sizes),
    )


def show(task: Task, tokenizer: PreTrainedTokenizerBase, value: Any) -> Iterator[Shown]:  # noqa: ANN401 - the task's
    """Yields a record as it is trained on: by the task's own `encode`."""
    for example in task.encode(tokenizer, [value]):
        target = example.target
        mask = isinstance(target, tuple) and task.aligned and len(target) == len(example.tokens)
        if mask:
            yield Shown(tuple(_pieces(tokenizer, example)), "")
        else:
            whole = Piece(_text(tokenizer, example.tokens), learnt=False)
            asked = task.asked or task.texts
            answers = [str(cell) for name, cell in task.row(value).items() if name not in asked]
            yield Shown((whole,), ", ".join(answers) or str(target))


def _pieces(tokenizer: PreTrainedTokenizerBase, example: Example) -> Iterator[Piece]:
    assert isinstance(example.target, tuple)  # noqa: S101 - as its caller has seen
    learnt = [one != IGNORED for one in example.target]
    start = 0
    for place in range(1, len(learnt) + 1):
        if place == len(learnt) or learnt[place] != learnt[start]:
            yield Piece(_text(tokenizer, example.tokens[start:place]), learnt[start])
            start = place


def _text(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    said = tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
    return said if isinstance(said, str) else "".join(said)


def _identifiers(site: Site, view: View, task: Task | None, rows: int) -> Identifiers:
    """Searches texts, as they are before they are masked."""
    masked = view.mask is not None
    try:
        finder = finder_of(site.config.mask_identifiers or True)
    except HortusError as error:
        return Identifiers(masked, 0, 0, {}, str(error))
    assert finder is not None  # noqa: S101 - it is named
    every = ceil(rows / _ROWS_SEARCHED)
    names = None if task is None else view.sources(task.texts)
    searched, hits, kinds = 0, 0, Counter[str]()
    for number, (_, row) in enumerate(read_rows(site.data, ())):
        if number % every:
            continue
        searched += 1
        found = _found(finder, [row.get(name) for name in names or row])
        hits += bool(found)
        kinds.update(found)
    return Identifiers(masked, searched, hits, dict(kinds.most_common()), finder.blind_to)


def _found(finder: Finder, cells: Sequence[Any]) -> Counter[str]:
    found: Counter[str] = Counter()

    def look(text: str) -> str:
        found.update(one.kind for one in apart(finder.find(text)))
        return text

    in_texts(list(cells), look)
    return found


def _costs(site: Site, what: Prospect) -> Iterator[Cost]:
    cost, delta = what.cost, site.policy.budget.delta
    bare = cost.event is None
    alone = SiteBudget(site.name, 1.0, delta, {})
    a_round = None if bare else cost.curve(alone, (1,))[0][1]
    for budget in budgets_at(site, what.contract):
        forecast = cost.forecast(budget)
        yield Cost(
            budget.site,
            delta,
            a_round,
            None if bare else cost.epsilon(delta),
            None if budget.unbounded else forecast.before,
            budget.epsilon,
            forecast.rounds,
            cost.rounds,
        )
