"""A plan's privacy section says one thing: a budget or a noise, never both and never neither."""

import math
from typing import Any

import pytest

from hortus.protocol.numbers import LEAST_DELTA, MOST_DELTA
from hortus.protocol.privacy import RECORD, Privacy
from hortus.protocol.section import Section
from hortus.runtime.errors import UsageError


def parsed(**fields: Any) -> Privacy:
    return Privacy.parse(fields, "plan")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "exactly one of epsilon and noise_multiplier"),
        ({"epsilon": 1, "noise_multiplier": 1}, "exactly one of epsilon and noise_multiplier"),
        ({"noise": "unsafe_none", "epsilon": 1}, "takes neither"),
        ({"noise": "unsafe_none", "spare_attempts": 0}, "takes neither"),
        ({"epsilon": math.inf}, "epsilon"),
        ({"epsilon": 0}, "epsilon"),
        ({"epsilon": 1, "delta": 0.02}, "δ is the chance that the promise fails"),
        ({"epsilon": 1, "delta": 1e-31}, "smallest δ that Hortus can compute with"),
        ({"epsilon": 1, "unit": "patient"}, "max_records_per_unit is required if unit"),
        ({"epsilon": 1, "max_records_per_unit": 3}, "max_records_per_unit is required if unit"),
        ({"epsilon": 1, "ring_bits": 16}, "16 have no room"),
        ({"epsilon": 1, "ring_bits": 31}, "ring_bits"),
        ({"epsilon": 1, "clipping": {"kind": "x", "smallest": 2.0}}, "not between"),
        ({"epsilon": 1, "clipping": {"kind": "x", "largest": 0.5}}, "not between"),
        ({"epsilon": 1, "clipping": {"kind": "x", "unit_norm": "1"}}, "unit_norm is not a number"),
        ({"epsilon": 1, "clipping": {"kind": "x", "unit_norm": True}}, "unit_norm is not a number"),
    ],
    ids=str,
)
def test_a_contradiction_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parsed(**fields)


@pytest.mark.parametrize("delta", [MOST_DELTA, LEAST_DELTA, 1e-5])
def test_the_ends_of_a_range_are_in_it(delta: float) -> None:
    assert parsed(epsilon=1, delta=delta).delta == delta


def test_a_unit_is_a_record_or_a_column() -> None:
    assert (parsed(epsilon=1).unit, parsed(epsilon=1).unit_column) == (RECORD, None)
    assert parsed(epsilon=1, unit="patient", max_records_per_unit=2).unit_column == "patient"


def test_what_a_clipping_rule_states_is_read_without_knowing_it() -> None:
    plain = parsed(epsilon=1, clipping_norm=0.5)
    assert (plain.unit_norm, plain.norm_bounds) == (0.5, (0.5, 0.5))
    rule = Section(kind="nobody-knows", unit_norm=0.7, smallest=0.1, largest=2)
    stated = parsed(epsilon=1, clipping_norm=0.5, clipping=rule.fields)
    assert (stated.unit_norm, stated.norm_bounds) == (0.7, (0.1, 2.0))
