"""A site's name is a host's, a file's and a key's in YAML; for what cannot be one, the nearest is offered."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hortus.runtime.errors import UsageError
from hortus.runtime.names import check_site_name, nearest_name


@pytest.mark.parametrize("name", ["a", "0", "north-ward", "a" * 63, "server"])
def test_letters_digits_and_hyphens_pass(name: str) -> None:
    check_site_name(name)
    assert nearest_name(name) == name


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Zürich, Ward A", "zurich-ward-a"),
        ("-a", "a"),
        ("../etc", "etc"),
        ("a\n", "a"),
        ("Łódź", None),
        ("北", None),
        ("", None),
        ("a" * 64, None),
        ("٣", None),
    ],
)
def test_another_name_is_refused_with_the_nearest_one(name: str, near: str | None) -> None:
    assert nearest_name(name) == near
    with pytest.raises(UsageError) as caught:
        check_site_name(name)
    said = caught.value.remedy or ""
    assert (f"Call it {near!r}" in said) if near else said.startswith("Use 1 to 63")


@settings(max_examples=50)
@given(st.text("aZ9-é ŁßİⅫ\n./", max_size=70))
def test_whatever_is_offered_is_a_name(text: str) -> None:
    near = nearest_name(text)
    if near is not None:
        check_site_name(near)
