"""A site's own page: what its ledger says, who may look, and what is wrong."""

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from helpers.charges import make_approval, make_charge
from typer.testing import CliRunner

from hortus.cli.main import app
from hortus.client.operator.ledger_view import LedgerView, epsilon_plot, view_ledger
from hortus.client.operator.page import SiteSource
from hortus.client.site.connection import ConnectionBook, Link
from hortus.pages.live import Watcher, page_app
from hortus.parties.folders import Consortium, ServerConfig, SiteFiles
from hortus.parties.founding import create_consortium
from hortus.parties.identity_change import sole
from hortus.parties.reach import Reached
from hortus.privacy.ledger.decisions import (
    EVERY_DATASET,
    Admitted,
    Declined,
    Frozen,
    Granted,
    Unfrozen,
    Withdrawn,
)
from hortus.privacy.ledger.reader import LedgerReader
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity
from hortus.protocol.policy import Budget, PeriodBudget, Policy
from hortus.runtime.errors import HortusError

START = 1.8e9
BUDGET = Budget(epsilon=2.0, delta=1e-5)
PLAN, OTHER = "e" * 64, "f" * 64
HOSTILE = "<script>alert(1)</script>"


class Clock:
    """Seconds since the epoch, which a test moves."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    sites = ("ash", "birch")
    return create_consortium(
        tmp_path_factory.mktemp("site") / "c",
        dict.fromkeys(sites, Path("x.csv")),
        dict.fromkeys(sites, Policy(budget=BUDGET)),
        ServerConfig(aggregation="127.0.0.1:1", superlink="127.0.0.1:2"),
        datetime.fromtimestamp(START, UTC),
    )


@pytest.fixture
def files(consortium: Consortium) -> Iterator[SiteFiles]:
    """A site whose ledger is empty."""
    files = consortium.site("ash")
    yield files
    for path in files.directory.glob("ledger.sqlite*"):
        path.unlink()
    files.connection.unlink(missing_ok=True)
    Policy(budget=BUDGET).save(files.policy)


@contextmanager
def opened(files: SiteFiles, clock: Clock) -> Iterator[Ledger]:
    identity = Identity.load(files.identity, "ash")
    with closing(Ledger.open(files.ledger, identity, clock)) as ledger:
        yield ledger


def charge(ledger: Ledger, number: int = 0, **changes: Any) -> None:
    fields = {"round": number, "step": ledger.head()[0], "noise_multiplier": 8.0} | changes
    ledger.charge(make_charge(**fields), BUDGET)


def refuse(ledger: Ledger, plan: str = PLAN, reason: str = "why", number: int = 0) -> None:
    ledger.decline(Declined(plan, "0" * 32, number, "", reason))


def viewed(files: SiteFiles, clock: Clock, budget: Budget = BUDGET) -> LedgerView:
    reader = LedgerReader(files.ledger, "ash")
    reader.look(Identity.load(files.identity, "ash").public_key_at)
    return view_ledger(reader.entries, reader.books, budget, clock())


def test_what_was_spent_is_what_the_ledger_itself_says(files: SiteFiles) -> None:
    clock = Clock()
    with opened(files, clock) as ledger:
        ledger.record(make_approval(PLAN))
        for number in (0, 0, 1):
            charge(ledger, number)
        spent = ledger.spent("d" * 64, BUDGET.delta)
        view = viewed(files, clock)
    (line,) = view.datasets
    assert line.spent == spent > 0
    assert (line.limit, line.left) == (2.0, 2.0 - spent)
    assert [(one.round, one.sums) for one in view.rounds] == [(2, 1), (1, 2)]
    assert view.rounds[0].epsilon == spent
    (plan,) = view.plans
    assert (plan.decision, plan.rounds, plan.spent) == ("approved by Ada", 2, spent)


def test_the_limit_is_a_step_line_that_grants_move(files: SiteFiles) -> None:
    clock = Clock()
    with opened(files, clock) as ledger:
        charge(ledger)
        ledger.record(Granted(EVERY_DATASET, 3.0, "a second study"))
        charge(ledger, 1)
        view = viewed(files, clock, BUDGET.model_copy(update={"epsilon": 4.0}))
    (limits,) = view.limits.values()
    assert [limit for _, limit in limits] == [2.0, 5.0, 5.0, 7.0], "the policy has changed since"
    (spent,) = view.spent.values()
    assert [x for x, _ in spent] == sorted(x for x, _ in spent)
    assert spent[-1][0] == limits[-1][0] == clock.now
    plot = epsilon_plot(view)
    assert plot.is_dated
    assert list(plot.curves) == ["spent"]
    assert list(plot.steps) == ["limit"]


@pytest.mark.parametrize(
    ("then", "outcome"),
    [
        ([], ""),
        (["refuse"], ""),
        (["charge"], "took part again on 15 Jan 2027 08:00 UTC"),
        (["approve"], "approved on 15 Jan 2027 08:00 UTC"),
        (["charge of another plan"], ""),
        (["withdraw"], "the plan was withdrawn on 15 Jan 2027 08:00 UTC"),
        (["approve", "refuse"], ""),
    ],
    ids=lambda value: " then ".join(value) if isinstance(value, list) else None,
)
def test_a_refusal_is_shown_once_and_closed_when_it_is_over(
    files: SiteFiles, then: list[str], outcome: str
) -> None:
    clock = Clock()
    with opened(files, clock) as ledger:
        refuse(ledger, reason="the first")
        refuse(ledger, reason="the last")
        for what in then:
            match what:
                case "refuse":
                    refuse(ledger, reason="again")
                case "charge":
                    charge(ledger)
                case "charge of another plan":
                    charge(ledger, plan=OTHER)
                case "approve":
                    ledger.record(make_approval(PLAN))
                case "withdraw":
                    ledger.record(Withdrawn(PLAN, "study", "Ada", "no"))
        lines = viewed(files, clock).refusals
    assert lines[0].outcome == outcome
    assert len(lines) == (2 if then == ["approve", "refuse"] else 1)
    assert sum(line.times for line in lines) == (3 if "refuse" in then else 2)
    if not then:
        assert lines[0].reason == "the last"


def test_refusals_that_last_come_first(files: SiteFiles) -> None:
    clock = Clock()
    with opened(files, clock) as ledger:
        refuse(ledger, OTHER)
        refuse(ledger, PLAN)
        charge(ledger)
        refuse(ledger, "a" * 64)
        refuse(ledger, PLAN, number=4)
        lines = viewed(files, clock).refusals
    assert [(line.plan[0], line.outcome[:4]) for line in lines] == [
        *(("e", ""), ("a", ""), ("f", ""), ("e", "took"))
    ]
    assert lines[0].round == 5


def test_what_stands_between_a_dataset_and_its_limit(files: SiteFiles) -> None:
    budget = BUDGET.model_copy(update={"per_period": PeriodBudget(epsilon=1.5)})
    clock = Clock()
    with opened(files, clock) as ledger:
        charge(ledger)
        ledger.record(Frozen(EVERY_DATASET, "an incident"))
        view = viewed(files, clock, budget)
        assert view.datasets[0].frozen == "an incident"
        assert view.datasets[0].period == ("2027", view.datasets[0].spent, 1.5)
        ledger.record(Unfrozen(EVERY_DATASET, "it is over"))
        view = viewed(files, clock, budget)
    assert view.datasets[0].frozen is None
    assert [one.what for one in view.decisions] == ["took the freeze back", "froze it"]


def test_without_noise_there_is_no_bound_and_no_curve(files: SiteFiles) -> None:
    clock = Clock()
    with opened(files, clock) as ledger:
        bare = {"mode": "unsafe_none", "mechanism": "none", "noise_multiplier": 0.0}
        ledger.charge(make_charge(**bare), None)
        view = viewed(files, clock)
    assert math.isinf(view.datasets[0].spent)
    assert not any(epsilon_plot(view).curves.values())
    assert "without noise" in epsilon_plot(view).remark
    assert "no bound" in Watcher(SiteSource(files.directory, clock)).page()


def test_a_reader_takes_up_what_is_added_and_notices_what_is_changed(files: SiteFiles) -> None:
    clock = Clock()
    reader = LedgerReader(files.ledger, "ash")
    key_at = Identity.load(files.identity, "ash").public_key_at
    reader.look(key_at)
    assert reader.entries == []
    with opened(files, clock) as ledger:
        for number in range(3):
            charge(ledger, number)
            reader.look(key_at)
            assert len(reader.entries) == number + 1
        with pytest.raises(HortusError, match="not signed by the key"):
            LedgerReader(files.ledger, "ash").look(lambda _: b"k" * 32)
    with closing(sqlite3.connect(files.ledger)) as raw:
        raw.execute("DROP TRIGGER entries_stay")
        raw.execute("UPDATE entries SET hash = ? WHERE seq = 2", ("0" * 64,))
        raw.commit()
    with pytest.raises(HortusError, match="number 2 does not fit"):
        LedgerReader(files.ledger, "ash").look(key_at)
    with closing(sqlite3.connect(files.ledger)) as raw:
        raw.execute("DROP TRIGGER entries_remain")
        raw.execute("DELETE FROM entries WHERE seq = 3")
        raw.commit()
    with pytest.raises(HortusError, match="entry 3 has disappeared"):
        reader.look(key_at)
    assert len(reader.entries) == 3


def test_the_page_needs_no_private_key_and_writes_nothing(files: SiteFiles) -> None:
    clock = Clock()
    with opened(files, clock) as ledger:
        charge(ledger)
        keys = files.identity.parent
        hidden = keys.rename(keys.with_name("elsewhere"))
        before = {path: path.stat().st_mtime_ns for path in files.directory.iterdir()}
        try:
            assert "ε spent" in Watcher(SiteSource(files.directory, clock)).page()
        finally:
            hidden.rename(keys)
        # What SQLite keeps in memory for readers aside.
        changed = {
            p.name for p, then in before.items() if p.exists() and p.stat().st_mtime_ns != then
        }
        assert changed <= {"ledger.sqlite-shm"}


def test_the_page_follows_a_running_agent(files: SiteFiles) -> None:
    clock = Clock()
    watcher = Watcher(SiteSource(files.directory, clock))
    assert "does not run" in watcher.shown().parts["now"]
    with sole(files), opened(files, clock) as ledger:
        book = ConnectionBook(files, "127.0.0.1:2", clock)
        book.note(Link.DOWN, Reached("nothing listens there", "Ask its operator."))
        shown = watcher.shown()
        assert "not connected" in shown.parts["state"]
        assert "nothing listens there" in shown.parts["warnings"]
        assert "Ask its operator." in shown.parts["warnings"]
        book.note(Link.UP, Reached())
        assert "Connected to the server" in watcher.shown().parts["now"]
        assert watcher.shown() is watcher.shown()
        ledger.admit(Admitted(PLAN, "study", "record", 1.0, 1e-5))
        assert "allowed unread by auto_approve" in watcher.shown().parts["plan-rows"]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"epsilon": 0.4}, "has spent its whole budget"),
        ({"epsilon": 0.45}, "% of its budget"),
        ({"unit": "patient"}, "such losses cannot be added up"),
    ],
    ids=["spent", "nearly spent", "another unit"],
)
def test_what_the_operator_has_to_see_to_is_on_top(
    files: SiteFiles, policy: dict[str, Any], said: str
) -> None:
    clock = Clock()
    with opened(files, clock) as ledger:
        charge(ledger)
        assert 0.41 < ledger.spent("d" * 64, BUDGET.delta) < 0.45
    Policy(budget=BUDGET.model_copy(update=policy)).save(files.policy)
    assert said in Watcher(SiteSource(files.directory, clock)).shown().parts["warnings"]


def test_the_end_of_a_certificate_is_warned_of(files: SiteFiles) -> None:
    clock = Clock()
    source = SiteSource(files.directory, clock)
    assert source.show().parts["warnings"] == ""
    clock.now += 820 * 86_400
    assert "The TLS certificate of this site expires in" in source.show().parts["warnings"]


def test_a_file_that_is_wrong_is_named_above_the_last_view(files: SiteFiles) -> None:
    watcher = Watcher(SiteSource(files.directory, Clock()))
    files.policy.write_text("budget: 7\n")
    shown = watcher.shown()
    assert "policy.yaml" in shown.parts["problem"]
    assert "ash" in watcher.page()
    assert watcher.shown() is shown, "said once"
    Policy(budget=BUDGET).save(files.policy)
    assert watcher.shown().parts["problem"] == ""


def test_what_others_said_stays_text(files: SiteFiles) -> None:
    clock = Clock()
    with opened(files, clock) as ledger:
        ledger.record(make_approval(PLAN, name=HOSTILE, operator=HOSTILE))
        refuse(ledger, reason=HOSTILE)
        ledger.record(Granted(EVERY_DATASET, 1.0, HOSTILE))
    page = Watcher(SiteSource(files.directory, clock)).page()
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") >= 4


def test_over_http_a_token_is_asked_for_on_loopback_too(files: SiteFiles) -> None:
    watcher = Watcher(SiteSource(files.directory, time.time))
    client = TestClient(
        page_app(watcher, "t" * 43), base_url="http://127.0.0.1", follow_redirects=False
    )
    for path in ("/", "/events", "/style.css"):
        assert client.get(path).status_code == 401
    assert client.get(f"/?token={'t' * 43}").status_code == 303
    answer = client.get("/")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "style=" not in answer.text, "a style attribute would be dropped under this policy"
    for shown in ("ash", "127.0.0.1:2", "Nothing was refused.", "No plan has been approved here"):
        assert shown in answer.text
    assert client.post("/").status_code == 405


def test_the_command_keeps_a_sites_page_on_loopback(files: SiteFiles) -> None:
    result = CliRunner().invoke(app, ["dashboard", str(files.directory), "--host", "0.0.0.0"])
    assert result.exit_code == 2
    assert "loopback alone" in " ".join(result.output.split())
