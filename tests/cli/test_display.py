from io import StringIO

from rich.console import Console

from hortus.cli.display import RoundsDisplay
from hortus.server.run_records import RoundRecord


def shown(*, is_terminal: bool) -> list[str]:
    output = StringIO()
    console = Console(file=output, force_terminal=is_terminal, width=80)
    with RoundsDisplay(console, "demo", 2) as display:
        for number in range(2):
            display.add(
                RoundRecord(
                    round=number,
                    sites=("ash", "birch"),
                    attempts=1,
                    sums=1,
                    metrics={"accuracy": 0.5, "macro_f1": 0.25},
                    epsilon=1.5,
                    seconds=2.0,
                ),
                {"ash": 1.0, "birch": 1.25},
            )
    return output.getvalue().splitlines()


def test_a_log_file_gets_a_line_for_each_round_as_it_ends() -> None:
    first, second = shown(is_terminal=False)
    assert first == (
        "demo, of 2: round 1, accuracy 50.0 %, macro F1 25.0 %, ε spent, per site 1.000 to 1.250, "
        "sites 2, seconds 2.0"
    )
    assert "round 2" in second


def test_a_terminal_is_left_with_the_table_and_the_bar() -> None:
    text = "\n".join(shown(is_terminal=True))
    assert "1.000 to 1.250" in text
    assert "2/2" in text
