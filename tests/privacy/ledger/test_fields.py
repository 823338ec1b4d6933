"""What the fields of entries may hold, at the bounds."""

import math

import pytest

from hortus.privacy.ledger import fields
from hortus.privacy.ledger.charges import Scope


@pytest.mark.parametrize(
    "value", ["a" * 31, "a" * 33, "A" * 32, "g" * 32, "٣" * 32, "a" * 31 + "\n", ""]
)
def test_only_small_hexadecimal_digits_of_the_right_number_pass(value: str) -> None:
    fields.check_hex("run", "0a" * 16, 32)
    with pytest.raises(ValueError, match="run: .* is not 32 hexadecimal digits"):
        fields.check_hex("run", value, 32)


@pytest.mark.parametrize("value", [math.nan, -1, 2**31 + 1, math.inf, -math.inf])
def test_a_range_has_its_ends_and_nothing_beyond(value: float) -> None:
    for end in (0, fields.MOST_COUNT):
        fields.check_range("round", end, 0, fields.MOST_COUNT)
    with pytest.raises(ValueError, match="round: "):
        fields.check_range("round", value, 0, fields.MOST_COUNT)


@pytest.mark.parametrize("value", ["LIFETIME", "", "lifetimes", "Scope.LIFETIME"])
def test_a_member_goes_by_its_value(value: str) -> None:
    fields.check_member("scope", "lifetime", Scope)
    with pytest.raises(ValueError, match="not among lifetime, plan, period"):
        fields.check_member("scope", value, Scope)


@pytest.mark.parametrize(
    ("check", "most"), [("check_unit", 200), ("check_reason", 500)], ids=["unit", "reason"]
)
def test_texts_are_neither_empty_nor_endless(check: str, most: int) -> None:
    getattr(fields, check)("x" * most)
    for text in ("", "x" * (most + 1)):
        with pytest.raises(ValueError, match=f"1 to {most} characters"):
            getattr(fields, check)(text)


def test_blanks_alone_are_no_name_and_no_reason() -> None:
    with pytest.raises(ValueError, match="an operator's name has 1 to 100"):
        fields.check_name("an operator's name", " \t ")
    with pytest.raises(ValueError, match="a reason"):
        fields.check_reason("\n ")
