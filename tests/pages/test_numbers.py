"""Numbers as pages write them: a bound is never written smaller than it is."""

import math

import pytest

from hortus.pages.numbers import bound, factor, percent, percent_up, power, sure


@pytest.mark.parametrize(
    ("share", "near", "above"),
    [
        (0.5, "50.0 %", "50.0 %"),
        (0.1234, "12.3 %", "12.4 %"),
        (1 / 3, "33.3 %", "33.4 %"),
        (1e-9, "0.0 %", "0.1 %"),
        (1.0, "100.0 %", "100.0 %"),
    ],
)
def test_a_share_is_written_near_itself_and_a_bound_on_one_not_below(
    share: float, near: str, above: str
) -> None:
    assert (percent(share), percent_up(share)) == (near, above)


def test_what_is_not_there_is_said() -> None:
    assert percent(None) == "–"
    assert bound(None) == "no bound"
    assert factor(701) == "no bound"
    assert sure(50) == "as good as certain"


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.1, 1.0, 2.345, 4.6, 8.0, 13.0])
def test_a_factor_is_rounded_up_and_by_little(epsilon: float) -> None:
    text = factor(epsilon).replace(",", "")
    if "10" in text and any(raised in text for raised in "⁶⁷⁸⁹"):
        mantissa, _, _ = text.partition("·")
        assert float(mantissa) >= math.exp(epsilon) / 10 ** math.floor(epsilon / math.log(10))
    else:
        assert math.exp(epsilon) <= float(text) <= math.exp(epsilon) * 1.01 + 0.01


@pytest.mark.parametrize(
    ("number", "written"),
    [(0.001, "0.001"), (1e-5, "10⁻⁵"), (2.5e-6, "2.5·10⁻⁶"), (3e12, "3·10¹²"), (7, "7")],
)
def test_a_small_number_is_written_as_people_do(number: float, written: str) -> None:
    assert power(number) == written


@pytest.mark.parametrize(("epsilon", "share"), [(0.0, 0.5), (1.0, 0.7311), (3.0, 0.9526)])
def test_certainty_is_rounded_up(epsilon: float, share: float) -> None:
    shown = float(sure(epsilon).removesuffix(" % sure"))
    assert 100 * share - 0.01 <= shown <= 100 * share + 0.02
