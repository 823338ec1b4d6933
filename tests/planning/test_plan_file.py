"""What a plan file says is read as it is written, or refused as it is written."""

from pathlib import Path

import pytest
import yaml

from hortus.planning.plan_file import load_plan
from hortus.protocol.plan import Plan
from hortus.runtime.errors import UsageError

PLAN = """\
name: words
model: model
task:
  labels: {labels}
training: {{rounds: 1, sampling_rate: 0.5, nominal_units: 10}}
privacy: {{epsilon: 8}}
simulation:
  sites: {sites}
"""
SITES = "{north: n.csv, south: s.csv}"


def load(folder: Path, labels: str = "[bread, cake]", sites: str = SITES) -> Plan:
    path = folder / "plan.yaml"
    path.write_text(PLAN.format(labels=labels, sites=sites), encoding="utf-8")
    return load_plan(path)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("true", "true"),
        ("no", "false"),
        ("Yes", "true"),
        ("off", "false"),
        ("1.0", "1.0"),
        ("1.50", "1.5"),
        ("1", "1"),
        ("010", "8"),
        ("12:30", "750"),
        ("null", "null"),
        ("~", "null"),
        (".nan", "NaN"),
        ("2026-11-27", '"2026-11-27"'),
    ],
)
def test_a_label_that_yaml_reads_as_no_text_is_told_as_it_is_written(
    tmp_path: Path, written: str, read: str
) -> None:
    for labels in (f"[bread, {written}]", f"\n  - bread\n  - {written}"):
        with pytest.raises(UsageError) as caught:
            load(tmp_path, labels)
        told = f"task.labels[1]: {written} → is read as {read}, not as text: put it in quotes"
        assert str(caught.value) == f"{tmp_path / 'plan.yaml'}: {told}"
    assert load(tmp_path, f"[bread, '{written}']").task.fields["labels"] == ["bread", written]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("North Ward", "Call it 'north-ward'"),
        ("Zürich", "Call it 'zurich'"),
        ("a/../b", "Call it 'a-b'"),
        ("-north", "Call it 'north'"),
        ("Łódź", "Use 1 to 63"),
        ("東京", "Use 1 to 63"),
        ("", "Use 1 to 63"),
        ("n" * 64, "Use 1 to 63"),
        ("server", "cannot have the server's name"),
        ("[bold]north", "Call it 'bold-north'"),
    ],
)
def test_a_name_that_no_site_can_have_is_refused_with_one_it_can(
    tmp_path: Path, name: str, told: str
) -> None:
    sites = yaml.safe_dump({name: "n.csv", "south": "s.csv"}, default_flow_style=True).strip()
    with pytest.raises(UsageError, match=r"simulation\.sites") as caught:
        load(tmp_path, sites=sites)
    assert told in str(caught.value)
    assert name in str(caught.value)


def test_a_site_named_by_a_number_is_told_to_quote_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the key '1' is read as 1, not as text"):
        load(tmp_path, sites="{1: n.csv, 2: s.csv}")
    assert load(tmp_path, sites="{'1': n.csv, '2': s.csv}").simulation
