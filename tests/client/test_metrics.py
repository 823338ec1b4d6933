"""A site's metrics: an exact list, and the same numbers whatever its records are."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from helpers.charges import approve
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hortus.client.metrics import SiteCollector, SiteCounts, counting
from hortus.client.site.folder import Site
from hortus.planning.plan_file import load_plan
from hortus.privacy.ledger.decisions import Frozen
from hortus.privacy.ledger.spending import count_entries, read_spending
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity
from hortus.simulation import rehearsed_sites
from hortus.simulation import simulate as simulation
from tests.conftest import write_records

NAMES = {
    "hortus_site_relay_up",
    "hortus_site_sessions_open",
    "hortus_site_ledger_entries",
    "hortus_site_sessions_total",
    "hortus_site_uploads_total",
    "hortus_site_uploaded_bytes_total",
    "hortus_site_downloaded_bytes_total",
    'hortus_site_phase_seconds_total{phase="keys"}',
    'hortus_site_phase_seconds_total{phase="download"}',
}


def samples(counts: SiteCounts, entries: int) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(SiteCollector(counts, lambda: entries, lambda: True))
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sample.labels.items())
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def measured(plan: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, float]]:
    """Runs a plan with the real agents; returns what each site's metrics say."""
    counts: dict[str, SiteCounts] = defaultdict(SiteCounts)
    connect = rehearsed_sites._connect

    def counted(hub: Any, site: Site, port: Any, rules: Any) -> Any:
        return counting(lambda rules: connect(hub, site, port, rules), counts[site.name])(rules)

    with monkeypatch.context() as patch:
        patch.setattr(rehearsed_sites, "_connect", counted)
        run = simulation.simulate(load_plan(plan), plan, out, lambda *_: None)
    ledgers = {site: run.consortium.site(site).ledger for site in counts}
    return {
        site: samples(own, read_spending(ledgers[site], run.store.run).charges)
        for site, own in counts.items()
    }


def test_the_names_are_these_and_no_others() -> None:
    assert set(samples(SiteCounts(), 0)) == NAMES


def test_no_number_depends_on_a_record(
    write_plan: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = write_plan()
    first = measured(plan, tmp_path / "first", monkeypatch)
    for number, site in enumerate(("ash", "birch", "cedar")):
        write_records(tmp_path / f"{site}.csv", 35 + 20 * number, 1000 + number)
    second = measured(plan, tmp_path / "second", monkeypatch)
    assert set(first) == {"ash", "birch", "cedar"}
    for site, found in first.items():
        assert set(found) == NAMES
        public = {name for name in NAMES if "_seconds" not in name}
        assert {n: found[n] for n in public} == {n: second[site][n] for n in public}
        assert found["hortus_site_uploads_total"] == 4
        assert found["hortus_site_ledger_entries"] == 4
        assert found["hortus_site_sessions_total"] == 1
        assert found["hortus_site_sessions_open"] == 0
        sent = found["hortus_site_uploaded_bytes_total"]
        assert sent == found["hortus_site_downloaded_bytes_total"] > 0


def test_the_time_of_a_phase_that_records_lengthen_is_not_kept() -> None:
    counts = SiteCounts()
    for phase in ("keys", "download", "gradients", "noise", "wait", "upload"):
        with counts.stopwatch(phase):
            pass
    kept = {phase for phase in ("gradients", "noise", "wait", "upload") if counts.seconds(phase)}
    assert not kept
    assert all(counts.seconds(phase) > 0 for phase in ("keys", "download"))


def test_a_scrape_does_not_wait_for_a_step_that_is_charged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(path, Identity.generate("ash"), lambda: 1.8e9)
    approve(ledger)
    answered, asked = Event(), partial(count_entries, path)

    def scrape() -> None:
        assert samples(SiteCounts(), asked())["hortus_site_ledger_entries"] == 1
        answered.set()

    with ledger._transaction():
        ledger._append(Frozen("d" * 64, "an incident"), 1.8e9)
        Thread(target=scrape, daemon=True).start()
        assert answered.wait(10), "what is not on disk yet is not counted, and not waited for"
    assert asked() == 2
    ledger.close()
    assert asked() == 2
