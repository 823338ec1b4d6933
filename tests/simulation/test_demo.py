"""What each site reaches alone is kept between starts, and the best of them is found."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from helpers.made_runs import SITES, classified, generated, make_plan

from hortus.runtime.errors import HortusError
from hortus.runtime.metric import Metrics
from hortus.simulation import demo
from hortus.simulation.demo import Alone, best_alone, train_each_alone
from hortus.simulation.shared_workbench import SharedWorkbench


def alone(reached: Mapping[str, Metrics]) -> list[Alone]:
    return [Alone(site, 9, metrics) for site, metrics in reached.items()]


@pytest.mark.parametrize(
    ("reached", "site"),
    [
        ({"ash": classified(0.4), "birch": classified(0.6), "cedar": classified(0.5)}, "birch"),
        ({"ash": generated(90.0), "birch": generated(60.0), "cedar": generated(None)}, "birch"),
        ({"ash": generated(None), "birch": ()}, None),
        ({"ash": ()}, None),
        ({}, None),
    ],
)
def test_the_best_site_is_the_one_that_the_task_calls_best(
    reached: Mapping[str, Metrics], site: str | None
) -> None:
    found = best_alone(alone(reached))
    assert (found and found[0].site) == site
    if found:
        metric = next(metric for metric in found[0].metrics if metric.primary)
        assert found[1] == metric.value


def test_results_of_an_earlier_start_are_read_whole_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "read_site_records", lambda _: dict.fromkeys(SITES))
    kept = alone({site: generated(30.0, chance=100.0) for site in SITES})
    path = tmp_path / "alone.json"
    path.write_bytes(demo._RESULTS.dump_json(kept))

    def again() -> list[Alone]:
        return train_each_alone(make_plan(), tmp_path, tmp_path, pytest.fail, SharedWorkbench())

    assert again() == kept
    broken = path.read_bytes().replace(b'"number"', b'"furlongs"')
    for text in (b"", b"[{}]", broken):
        path.write_bytes(text)
        with pytest.raises(HortusError, match=r"alone\.json: .* Remove it"):
            again()
