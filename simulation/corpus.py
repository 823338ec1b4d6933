"""A synthetic corpus of our own: what patients and customers write to hospitals and banks.

Sentences come from a small grammar: an opener, a core for the class, a shared circumstance, a
closer. Circumstances and some cores fit several classes, words are mistyped, and a few training
labels are wrong, so that the task can be learnt but not by heart.
"""

import csv
import io
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from hortus.runtime.files import write_atomic
from hortus.simulation.corpus_texts import (
    CIRCUMSTANCES,
    CLOSERS,
    CORES,
    OPENERS,
    SHARED,
    SHARED_BY,
    SLOTS,
)

Row = tuple[str, str]

_TYPO = 0.25
_WRONG_LABEL = 0.03
_TEST_PER_CLASS = 60

_AMBIGUOUS = 0.16

_SITES: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "north-hospital": (
        480,
        {
            "appointment_change": 4,
            "test_results": 5,
            "symptom_advice": 4,
            "referral": 3,
            "visit_bill": 1,
            "account_access": 1,
        },
    ),
    "river-clinic": (
        380,
        {
            "appointment_change": 3,
            "prescription_refill": 5,
            "symptom_advice": 2,
            "visit_bill": 3,
            "account_access": 1,
            "fee_complaint": 1,
        },
    ),
    "hill-practice": (
        350,
        {
            "prescription_refill": 3,
            "referral": 4,
            "test_results": 2,
            "visit_bill": 3,
            "symptom_advice": 2,
            "appointment_change": 1,
            "wrong_charge": 1,
        },
    ),
    "harbor-bank": (
        500,
        {
            "card_lost": 4,
            "wrong_charge": 4,
            "transfer_delay": 4,
            "account_access": 2,
            "fee_complaint": 1,
            "loan_question": 1,
        },
    ),
    "garden-credit": (
        400,
        {
            "loan_question": 5,
            "fee_complaint": 4,
            "transfer_delay": 2,
            "account_access": 2,
            "wrong_charge": 1,
            "visit_bill": 1,
        },
    ),
    "valley-savings": (
        360,
        {
            "card_lost": 3,
            "loan_question": 3,
            "fee_complaint": 3,
            "account_access": 4,
            "wrong_charge": 2,
            "transfer_delay": 1,
            "visit_bill": 1,
        },
    ),
}


def labels() -> tuple[str, ...]:
    """All classes, sorted."""
    return tuple(sorted(CORES))


def generate(
    weights: Mapping[str, int],
    count: int,
    generator: random.Random,
    *,
    clean: bool,
    taken: Collection[str] = (),
) -> list[Row]:
    """Draws distinct labelled messages.

    Args:
        weights: Relative frequency of each class.
        count: How many messages.
        generator: Where all choices come from.
        clean: Whether every label is right.
        taken: Texts that must not come.
    """
    rows: dict[str, str] = {}
    while len(rows) < count:
        (label,) = generator.choices(list(weights), list(weights.values()))
        text = _message(label, generator)
        if text in rows or text in taken:
            continue
        wrong = not clean and generator.random() < _WRONG_LABEL
        others = [other for other in weights if other != label]
        rows[text] = generator.choice(others) if wrong else label
    return list(rows.items())


def write_demo(directory: Path, seed: int) -> tuple[str, ...]:
    """Writes SITE.csv for each of six sites, a balanced test.csv, and labels.txt.

    Returns:
        The sites' names, sorted.
    """
    generator = random.Random(seed)  # noqa: S311 - public, made-up data
    test: dict[str, str] = {}
    for label in labels():
        test |= generate({label: 1}, _TEST_PER_CLASS, generator, clean=True, taken=test)
    for site, (count, weights) in _SITES.items():
        rows = generate(weights, count, generator, clean=False, taken=test)
        write_atomic(directory / f"{site}.csv", _csv(rows))
    write_atomic(directory / "test.csv", _csv(list(test.items())))
    write_atomic(directory / "labels.txt", "".join(f"{label}\n" for label in labels()).encode())
    return demo_sites()


def demo_sites() -> tuple[str, ...]:
    """Returns the names of the six sites, sorted."""
    return tuple(sorted(_SITES))


def _message(label: str, generator: random.Random) -> str:
    ambiguous = generator.random() < _AMBIGUOUS
    pattern = (
        generator.choice(OPENERS)
        + generator.choice(SHARED[SHARED_BY[label]] if ambiguous else CORES[label])
        + generator.choice(CIRCUMSTANCES)
        + generator.choice(CLOSERS)
    )
    while "{" in pattern:
        slot = pattern[pattern.index("{") + 1 : pattern.index("}")]
        pattern = pattern.replace(f"{{{slot}}}", generator.choice(SLOTS[slot]), 1)
    return _mistype(pattern, generator) if generator.random() < _TYPO else pattern


def _mistype(text: str, generator: random.Random) -> str:
    """Drops a letter or swaps two neighbours."""
    at = generator.randrange(1, len(text) - 1)
    if generator.random() < 0.5:
        return text[:at] + text[at + 1 :]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _csv(rows: Sequence[Row]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(("text", "label"))
    writer.writerows(rows)
    return buffer.getvalue().encode()
