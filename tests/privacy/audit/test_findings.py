"""Findings are shown in the order of their entries, each once, and a row of the same as one."""

from hypothesis import given
from hypothesis import strategies as st

from hortus.privacy.audit.findings import Finding, Severity, broken, grouped, in_order, warning

FINDINGS = st.builds(
    Finding,
    st.integers(0, 9),
    st.sampled_from(Severity),
    st.sampled_from(["wrong key", "too much"]),
    st.sampled_from(["a", "b"]),
)


def test_what_concerns_no_entry_comes_last() -> None:
    found = in_order([warning(0, "unseen", ""), broken(3, "hash", ""), broken(1, "key", "")])
    assert [one.entry for one in found] == [1, 3, 0]


def test_of_two_findings_of_one_kind_at_one_entry_the_first_is_shown() -> None:
    assert in_order([broken(2, "hash", "one"), broken(2, "hash", "other")]) == [
        broken(2, "hash", "one")
    ]


def test_neighbours_with_one_problem_are_one_and_a_gap_ends_them() -> None:
    row = [broken(number, "key", "") for number in (1, 2, 3, 5)]
    mixed = [*row[:2], warning(2, "late", ""), *row[2:]]
    assert grouped(mixed) == [(row[0], 3), (warning(2, "late", ""), 2), (row[3], 5)]


@given(st.lists(FINDINGS))
def test_no_entry_and_no_problem_is_lost(findings: list[Finding]) -> None:
    ordered = in_order(findings)
    assert {(one.entry, one.problem) for one in ordered} == {
        (one.entry, one.problem) for one in findings
    }
    covered = {
        (number, first.severity, first.problem)
        for first, last in grouped(ordered)
        for number in range(first.entry, last + 1)
    }
    assert covered == {(one.entry, one.severity, one.problem) for one in ordered}
