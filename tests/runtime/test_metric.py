"""What a metric says of itself is enough to write it, to compare it and to lay out a table."""

import json
import math
import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
from helpers.made_runs import classified, generated
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from hortus.runtime.metric import (
    Better,
    Breakdown,
    Chance,
    Metric,
    Metrics,
    Part,
    Unit,
    best,
    cells,
    check_metrics,
    columns,
    primary,
    values,
    without_breakdowns,
)


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        (Unit.PERCENT, 0.8342, "83.4 %"),
        (Unit.PERCENT, 1, "100.0 %"),
        (Unit.PERCENT, -0.05, "-5.0 %"),
        (Unit.POINTS, 41.26, "41.3"),
        (Unit.NATS, math.log(2), "0.693 nats"),
        (Unit.COUNT, 1024, "1,024"),
        (Unit.NUMBER, 18.0246, "18.02"),
        (Unit.NUMBER, 0, "0"),
        (Unit.NUMBER, 48213.4, "48,213"),
        (Unit.NUMBER, 3.2e17, "3.2e+17"),
        (Unit.NUMBER, -0.000123, "-0.000123"),
        (Unit.NUMBER, np.float32(0.5), "0.5"),
        (Unit.NUMBER, math.inf, "not finite"),
        (Unit.PERCENT, math.nan, "not finite"),
        (Unit.NATS, None, "not finite"),
    ],
)
def test_a_value_is_written_as_its_unit_is(unit: Unit, value: float | None, text: str) -> None:
    assert Metric("it", value, unit, Better.HIGHER).text == text


def test_a_metric_is_named_by_its_label_or_by_its_name() -> None:
    _, macro = classified(0.5, 0.25)
    rouge, perplexity = generated(12.5)
    assert (macro.label, macro.title, macro.axis) == ("macro F1", "Macro F1", "macro F1, %")
    assert (rouge.title, rouge.axis) == ("ROUGE-L", "ROUGE-L")
    assert (perplexity.column, perplexity.axis) == ("perplexity", "perplexity (lower is better)")
    assert perplexity.explained.endswith("as if it had to guess. Lower is better.")
    assert rouge.explained == "Higher is better."


@given(st.floats(), st.sampled_from(list(Unit)), st.sampled_from(list(Better)))
def test_a_metric_survives_json_whole_and_the_json_is_standard(
    value: float, unit: Unit, better: Better
) -> None:
    metric = Metric("it", value, unit, better, primary=True, chance=Chance(0.5, "guessing"))
    text = json.dumps(asdict(metric), allow_nan=False)
    assert TypeAdapter(Metric).validate_json(text, strict=True) == metric


@pytest.mark.parametrize(
    ("metrics", "problem"),
    [
        ((generated(1.0)[0],), "rouge_l: none is"),
        ((*generated(1.0), *classified(0.5)), "perplexity and accuracy is"),
        (generated(1.0) * 2, "two metrics have one name"),
    ],
)
def test_metrics_that_do_not_belong_together_are_refused(metrics: Metrics, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_metrics(metrics)
    check_metrics(())


def test_what_a_store_does_not_write_is_not_read() -> None:
    whole = asdict(classified(0.5)[0])
    for change in ({"unit": "furlongs"}, {"better": "other"}, {"primary": 1}, {"value": "0.5"}):
        with pytest.raises(ValidationError):
            TypeAdapter(Metric).validate_json(json.dumps(whole | change), strict=True)


def test_the_best_is_the_last_of_equals_and_what_is_not_finite_is_never_best() -> None:
    def among(*rows: Metrics) -> int | None:
        return best(range(len(rows)), lambda number: rows[number])

    assert among() is None
    assert among((), ()) is None
    assert among(generated(None), generated(math.inf)) is None
    assert among(generated(9.0), generated(3.0), generated(3.0), generated(4.0), ()) == 2
    assert among(generated(math.nan), generated(9.0), generated(None)) == 1
    assert among(classified(0.2), classified(0.8), classified(0.8), classified(0.5)) == 2
    assert among(classified(0.99), generated(9.0), generated(12.0)) == 1, "these do not compare"


def test_gains_are_positive_where_a_value_is_better() -> None:
    _, perplexity = generated(12.0)
    assert (perplexity.gain(15.0), perplexity.gain(10.0)) == (3.0, -2.0)
    assert classified(0.75)[0].gain(0.5) == 0.25
    assert replace(perplexity, value=None).gain(1e9) == -math.inf


def test_a_table_has_the_primary_metric_first_and_a_dash_where_nothing_was_measured() -> None:
    one, other = generated(12.0), classified(0.5, 0.25)
    found = columns([(), one[:1], one])
    assert [metric.label for metric in found] == ["perplexity", "ROUGE-L"]
    assert cells(one, found) == ("12", "31.2")
    assert cells((), found) == ("–", "–")
    assert cells(other[:1], columns([other])) == ("50.0 %", "–")
    assert columns([(), ()]) == ()


def test_a_word_stands_above_a_column_and_not_in_each_of_its_cells() -> None:
    loss = Metric("loss", math.log(2), Unit.NATS, Better.LOWER, primary=True)
    assert (loss.text, loss.column, cells((loss,), [loss])) == (
        "0.693 nats",
        "loss, nats",
        ("0.693",),
    )
    assert loss.axis == "loss, nats (lower is better)"


def test_programs_that_know_what_was_measured_find_it_by_name() -> None:
    assert values(classified(0.5, 0.25)) == {"accuracy": 0.5, "macro_f1": 0.25}
    assert math.isnan(values(generated(None))["perplexity"])
    assert primary(()) is None


def test_the_documentation_names_every_field_and_unit() -> None:
    text = (Path(__file__).parents[2] / "docs" / "dashboard.md").read_text(encoding="utf-8")
    table = text.partition("## What a run measures")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", table))
    assert {field.name for field in fields(Metric)} | set(Unit) | set(Better) <= named


def test_the_worst_part_comes_first_whichever_way_is_better() -> None:
    (one,) = classified(0.5)
    parts = tuple(Part(str(value), np.int64(3), value) for value in (0.5, math.nan, 0.25, 0.75))
    whole = replace(one, breakdown=Breakdown("F1", "label", "records", parts))
    assert [part.label for part in whole.worst_first()] == ["nan", "0.25", "0.5", "0.75"]
    turned = replace(whole, better=Better.LOWER)
    assert [part.label for part in turned.worst_first()] == ["nan", "0.75", "0.5", "0.25"]
    assert one.worst_first() == ()
    assert without_breakdowns((whole,)) == (one,)
    text = json.dumps(asdict(whole), allow_nan=False)
    assert TypeAdapter(Metric).validate_json(text, strict=True) == whole


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_chance_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="guessing has to be finite"):
        Chance(value, "guessing")


@pytest.mark.parametrize("folder", ["cli", "client", "pages", "planning", "server", "simulation"])
def test_whatever_shows_a_run_knows_no_metric_by_name(folder: str) -> None:
    root = Path(__file__).parents[2] / folder
    named = re.compile(r"accurac|macro[_ ]f1|perplexity|rouge|\bbleu\b", re.IGNORECASE)
    files = [path for path in root.rglob("*") if path.suffix in {".py", ".html", ".js"}]
    assert files
    assert not [path for path in files if named.search(path.read_text(encoding="utf-8"))]
