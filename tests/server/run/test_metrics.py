"""The server's metrics: an exact list, read from the run's database."""

from pathlib import Path

from helpers.made_runs import SITES, make_contract, make_plan, make_round, make_store
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hortus.server.run.metrics import RunCollector
from hortus.server.run.records import Departure


def test_the_numbers_are_the_runs_and_there_are_no_others(tmp_path: Path) -> None:
    contract = make_contract(make_plan(rounds=3))
    store = make_store(tmp_path, contract, 1)
    registry = CollectorRegistry()
    registry.register(RunCollector(tmp_path, contract, 5, lambda: True))

    def told() -> dict[str, float]:
        families = text_string_to_metric_families(generate_latest(registry).decode())
        return {sample.name: sample.value for family in families for sample in family.samples}

    assert told() == {
        "hortus_server_superlink_up": 1,
        "hortus_server_roster_sites": 5,
        "hortus_server_rounds_planned": 3,
        "hortus_server_cohort_minimum_sites": 3,
        "hortus_server_cohort_sites": 4,
        "hortus_server_rounds_total": 1,
        "hortus_server_secure_sums_total": 1,
        "hortus_server_secure_sum_attempts_total": 2,
        "hortus_server_departures_total": 0,
    }
    store.commit(make_round(1, SITES[:-1], attempts=3), {})
    store.note_departure(Departure(1, "dogwood", "its budget is spent"))
    after = told()
    assert after["hortus_server_rounds_total"] == 2
    assert after["hortus_server_cohort_sites"] == 3
    assert after["hortus_server_secure_sum_attempts_total"] == 5
    assert after["hortus_server_departures_total"] == 1
