import time
from collections.abc import Callable
from dataclasses import replace
from io import StringIO

import pytest
from helpers.made_runs import classified, generated
from rich.box import SQUARE, Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hortus.cli.display import RoundsDisplay, terminal
from hortus.runtime.metric import Better, Metric, Unit
from hortus.server.run.records import RoundRecord

RECORD = RoundRecord(
    round=0,
    sites=("ash", "birch"),
    attempts=1,
    sums=1,
    metrics=classified(0.5, 0.25),
    epsilon=1.5,
)


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits for a display that draws itself four times a second."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def shown(*, is_terminal: bool, record: RoundRecord = RECORD) -> list[str]:
    output = StringIO()
    console = Console(file=output, force_terminal=is_terminal, width=80)
    with RoundsDisplay(console, "demo", 2) as display:
        for number in range(2):
            display.add(
                replace(record, round=number),
                {"ash": 1.0, "birch": 1.25},
            )
    return output.getvalue().splitlines()


def test_a_log_file_gets_a_line_for_each_round_as_it_ends() -> None:
    first, second = shown(is_terminal=False)
    assert first == (
        "demo, of 2: round 1, accuracy 50.0 %, macro F1 25.0 %, ε spent, per site 1.000 to 1.250, "
        "sites 2"
    )
    assert "round 2" in second


def test_a_line_names_whatever_was_measured_the_primary_metric_first() -> None:
    first, _ = shown(is_terminal=False, record=replace(RECORD, metrics=generated(18.0204)))
    assert "round 1, perplexity 18.02, ROUGE-L 31.2, ε spent" in first
    loss = Metric("loss", 0.6931, Unit.NATS, Better.LOWER, primary=True)
    first, _ = shown(is_terminal=False, record=replace(RECORD, metrics=(loss,)))
    assert "round 1, loss 0.693 nats, ε spent" in first
    first, _ = shown(is_terminal=False, record=replace(RECORD, metrics=()))
    assert "round 1, ε spent" in first


def test_a_table_has_a_column_for_whatever_was_measured() -> None:
    lines = shown(is_terminal=True, record=replace(RECORD, metrics=generated(None)))
    names = next(line for line in reversed(lines) if "ROUGE-L" in line)
    assert names.index("perplexity") < names.index("ROUGE-L")
    assert any("not finite" in line and "31.2" in line for line in lines)


def test_many_metrics_are_turned_in_a_terminal_that_is_too_narrow_for_their_columns() -> None:
    many = tuple(
        replace(one, name=f"{one.name}-{number}", label=f"{one.label} {number}")
        for number in range(9)
        for one in generated(1.0)
        if not (one.primary and number)
    )
    output = StringIO()
    console = terminal(file=output, force_terminal=True, width=80, height=50)
    with RoundsDisplay(console, "demo", 2) as display:
        display.add(replace(RECORD, metrics=many), {})
    assert all(f"ROUGE-L {number}" in output.getvalue() for number in range(9))
    assert "…" not in output.getvalue()


def test_a_terminal_is_left_with_the_table_and_the_bar() -> None:
    text = "\n".join(shown(is_terminal=True))
    assert "1.000 to 1.250" in text
    assert "2/2" in text


NUMBERS = ("0.0000", "7.9990", "83.4 %", "12,345,678", "1.25e-05", "1,234 of 1,234 rounds")


def printed(table: Table, width: int) -> str:
    output = StringIO()
    terminal(file=output, width=width).print(table)
    assert all(len(line) <= width for line in output.getvalue().splitlines())
    return output.getvalue()


@pytest.mark.parametrize("width", [24, 30, 40, 60, 80, 200])
@pytest.mark.parametrize("box", [None, SQUARE])
def test_no_number_loses_a_digit_on_a_narrow_terminal(width: int, box: Box | None) -> None:
    table = Table("site", "ε before", "after: PLD", "macro F1", "units", "δ", "covers", box=box)
    table.add_row("north", *NUMBERS)
    table.add_row("a-site-with-a-long-name", *reversed(NUMBERS[:-1]), Text(NUMBERS[-1]))
    text = printed(table, width)
    assert "…" not in text
    for number in NUMBERS[:-1]:
        assert text.count(number) == 2
    assert "ε" in text


def test_a_table_that_can_wrap_its_words_stays_a_table() -> None:
    table = Table("site", "ε", "why", box=None)
    table.add_row("north", "7.9990", "its budget is spent " * 10)
    lines = printed(table, 40).splitlines()
    assert lines[0].split() == ["site", "ε", "why"]
    assert lines[1].split()[:2] == ["north", "7.9990"]


def test_a_word_longer_than_the_terminal_is_folded_and_not_cut() -> None:
    table = Table("name", "value", box=None)
    table.add_row("contract", "0123456789abcdef" * 4)
    table.add_row("two", "a b")
    text = "".join(c for c in printed(table, 30) if c in "0123456789abcdef")
    assert "0123456789abcdef" * 4 in text


def test_numbers_stay_whole_in_the_rounds_of_a_narrow_terminal() -> None:
    output = StringIO()
    console = terminal(file=output, force_terminal=True, width=40, height=50)
    with RoundsDisplay(console, "demo", 2) as display:
        display.add(RECORD, {"ash": 1.0, "birch": 1.25})
    assert all(number in output.getvalue() for number in ("1.000", "1.250", "50.0", "25.0"))
    assert "…" not in output.getvalue()


def test_what_happens_now_is_named_and_is_gone_at_the_end() -> None:
    """Of a start that takes a minute, and on no line of a log."""
    output = StringIO()
    console = terminal(file=output, force_terminal=True, width=80, height=50)
    with RoundsDisplay(console, "demo", 2) as display:
        display.say("waiting for sites to connect: ash\x1b[31m")
        wait_until(lambda: "connect: ash\N{REPLACEMENT CHARACTER}[31m" in output.getvalue())
        display.say("round 1: step 2 of 4")
        wait_until(lambda: "round 1: step 2 of 4" in output.getvalue())
        seen = len(output.getvalue())
    last = output.getvalue()[seen:]
    assert "step 2 of 4" not in last[last.rindex("0/2") :]
    quiet = StringIO()
    with RoundsDisplay(terminal(file=quiet), "demo", 2) as display:
        display.say("round 1: step 2 of 4")
    assert quiet.getvalue() == ""


@pytest.mark.parametrize("width", range(18, 25))
def test_a_share_is_never_parted_from_its_sign(width: int) -> None:
    table = Table("a", "b c", "why", box=None)
    table.add_row("83.4 %", "12.5 %", "words that wrap " * 3)
    text = printed(table, width)
    assert "83.4 %" in text
    assert "12.5 %" in text
