"""Records are read and encoded behind a grid of times, never between a question and its answer."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from hortus.client.pace import RehearsalClock
from hortus.client.preparation import EncodedDataset, Preparations, Prepared, Preparing
from hortus.protocol.plan import Contract, Plan
from hortus.runtime.errors import DataError

DONE = Prepared(None, EncodedDataset("d" * 64, None))  # type: ignore[arg-type]


class Clock:
    """Moves when it is told to."""

    observed = True

    def __init__(self) -> None:
        self.time = 50.0

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float, unless: threading.Event) -> None:
        raise AssertionError("a question waits for nothing")


class Site:
    """Files whose encoding takes as long as a test says, and may fail."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.took = 0.0
        self.failure: Exception | None = None
        self.version = 0
        self.made: list[str] = []
        self.preparations = Preparations(self.make, lambda _: self.version, self.clock)

    def make(self, contract: Contract) -> Prepared:
        self.made.append(contract.name)
        self.clock.time += self.took
        if self.failure is not None:
            raise self.failure
        return DONE

    def ask(self, contract: Contract) -> int | Prepared:
        try:
            return self.preparations.of(contract)
        except Preparing as error:
            return error.seconds
        finally:
            self.preparations.wait(10)

    def heard(self, contract: Contract) -> list[tuple[int, Any]]:
        """What a server hears that asks every half second from the first question on, and when."""
        first, answers = self.clock.time, []
        for moment in range(100):
            self.clock.time = max(self.clock.time, first + moment / 2)
            try:
                answers.append((moment, self.ask(contract)))
            except DataError as error:
                answers.append((moment, str(error)))
        return answers


@pytest.fixture
def make_contract(plan: Plan) -> Callable[..., Contract]:
    def make(**fields: Any) -> Contract:
        return Plan(**plan.model_dump() | fields).contract(
            model_digest="a" * 64, noise_multiplier=5.0
        )

    return make


def when_ready(answers: list[tuple[int, Any]]) -> int:
    return next(moment for moment, answer in answers if answer is DONE)


def test_what_it_takes_is_told_by_a_place_on_the_grid(make_contract: Any) -> None:
    heard = {}
    for took in (0.0, 0.7, 4.9, 6.0, 9.9):
        site = Site()
        site.took = took
        # The answer to the first question comes before anything is made of a record.
        heard[took] = site.heard(make_contract())
        assert heard[took][0] == (0, 5)
    assert when_ready(heard[0.0]) == when_ready(heard[0.7]) == when_ready(heard[4.9]) == 10
    assert when_ready(heard[6.0]) == when_ready(heard[9.9]) == 20


def test_neither_names_nor_seeds_have_it_measured_again(make_contract: Any) -> None:
    site = Site()
    site.took = 6.0
    first = site.heard(make_contract())
    for number, took in enumerate((9.9, 6.1, 0.1)):
        site.took = took
        again = site.heard(make_contract(name=f"other-{number}", seed=number))
        assert when_ready(again) == when_ready(first) == 20


def test_failures_are_told_when_a_success_would_have_been(make_contract: Any) -> None:
    heard = []
    for took in (0.0, 4.9):
        site = Site()
        site.took, site.failure = took, DataError("no")
        heard.append(site.heard(make_contract()))
        assert site.made == ["tiny"], "it is not made again at every question"
    assert heard[0][10:] == heard[1][10:]
    assert [answer for moment, answer in heard[0] if moment >= 10] == ["no"] * 90
    site.failure = None
    site.clock.time += 61
    assert isinstance(site.ask(make_contract()), int)
    site.clock.time += 5
    assert site.ask(make_contract()) is DONE


def test_one_plan_is_prepared_at_a_time_and_the_other_is_told_to_ask_again(
    make_contract: Any,
) -> None:
    site = Site()
    one, other = make_contract(), make_contract(name="other")
    assert site.ask(one) == 5
    site.clock.time += 2.5
    assert site.ask(other) == 3
    site.clock.time += 2.6
    assert site.ask(one) is DONE
    assert site.ask(other) == 5
    assert site.made == ["tiny", "other"]


def test_files_that_have_changed_are_read_again(make_contract: Any) -> None:
    site = Site()
    assert site.ask(make_contract()) == 5
    site.clock.time += 6
    assert site.ask(make_contract()) is DONE
    site.version = 1
    assert site.ask(make_contract()) == 5
    assert len(site.made) == 2


def test_nobody_waits_in_a_rehearsal(make_contract: Any) -> None:
    made = []

    def make(contract: Contract) -> Prepared:
        made.append(contract.name)
        return DONE

    preparations = Preparations(make, lambda _: 0, RehearsalClock())
    for name in ("one", "one", "two"):
        assert preparations.of(make_contract(name=name)) is DONE
    assert made == ["one", "two"]
