"""A site changes its identity key and keeps its ledger, wherever the change is cut short."""

import os
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from helpers.charges import approve, make_charge

from hortus.client.operator.rotation import rotate_identity
from hortus.client.site.folder import Site
from hortus.client.site.witness import Witness, require
from hortus.parties.folders import Consortium, ServerConfig, SiteConfig, SiteFiles
from hortus.parties.founding import create_consortium, create_site
from hortus.parties.identity_change import sole
from hortus.parties.joining import admit, pin
from hortus.privacy.audit.auditor import audit
from hortus.privacy.audit.evidence import collect
from hortus.privacy.audit.reconcile import forks
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Handover, Identity, Roster
from hortus.protocol.policy import Budget, Policy
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import HortusError, Refused, UsageError

NOW = datetime(2026, 5, 1, tzinfo=UTC)
POLICY = Policy(budget=Budget(epsilon=50.0, delta=1e-5))
FILES_WRITTEN = 4  # next key, hand-over, roster, card


def clock() -> float:
    return NOW.timestamp()


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    sites = ("ash", "birch")
    server = ServerConfig(aggregation="127.0.0.1:1", superlink="127.0.0.1:2")
    data = dict.fromkeys(sites, Path("x.csv"))
    return create_consortium(tmp_path / "c", data, dict.fromkeys(sites, POLICY), server, NOW)


def release(files: SiteFiles, step: int) -> None:
    """Charges one release, as the site's agent does."""
    with Site(files.directory, clock) as site:
        approve(site.ledger)
        site.ledger.commit(site.ledger.reserve(make_charge(step=step), POLICY.budget))


def broken(consortium: Consortium, roster: Roster | None = None) -> str | None:
    """What the first finding of an audit of ash is, by birch's roster; None if there is none."""
    pinned = roster or Roster.load(consortium.site("birch").roster)
    found = audit(collect(consortium.site("ash"), "ash"), pinned)
    chain = [f.problem for f in found.findings if "key" in f.problem]
    return chain[0] if chain else None


def tell_everybody(consortium: Consortium, card: object) -> None:
    admit(consortium.server, [card], NOW)  # type: ignore[list-item]
    pin(consortium.site("birch"), None, [card], NOW)  # type: ignore[list-item]


def test_the_ledger_goes_on_over_two_changes_and_others_can_audit_it(
    consortium: Consortium,
) -> None:
    files = consortium.site("ash")
    keys = [Identity.load(files.identity, "ash").public_key_bytes]
    for step in range(2):
        release(files, step)
    for step in (2, 3):
        card = rotate_identity(files, clock)
        keys.append(card.key)
        release(files, step)
    assert broken(consortium) is not None, "who has not pinned the new card cannot follow"
    tell_everybody(consortium, card)
    assert broken(consortium) is None
    roster = Roster.load(consortium.site("birch").roster)
    assert [roster.key_at("ash", entry) for entry in range(2, 6)] == [keys[i] for i in (0, 0, 1, 2)]
    assert Identity.load(files.identity, "ash").public_key_bytes == keys[2] == roster.sites["ash"]
    assert len(set(keys)) == 3


def test_an_entry_by_a_former_key_after_the_change_is_found(consortium: Consortium) -> None:
    files = consortium.site("ash")
    release(files, 0)
    stolen = Identity.load(files.identity, "ash")
    tell_everybody(consortium, rotate_identity(files, clock))
    release(files, 1)
    assert broken(consortium) is None
    roster = Roster.load(consortium.site("birch").roster)
    later = roster.handovers["ash"][0].model_copy(update={"last_entry": 3})
    with pytest.raises(UsageError, match="not signed by the key that it is from"):
        replace(roster, handovers={"ash": (later,)})
    # A ledger that only the thief of the former key has written on.
    files.ledger.unlink()
    for name in ("-wal", "-shm"):
        files.ledger.with_name(files.ledger.name + name).unlink(missing_ok=True)
    with closing(approve(Ledger.open(files.ledger, stolen, clock))) as forged:
        for step in range(2):
            reserved = forged.reserve(make_charge(step=step, noise_multiplier=9.0), POLICY.budget)
            forged.commit(reserved)
    assert broken(consortium) == "it is not the entry after which the site changed its key"
    without_head = replace(
        roster,
        handovers={"ash": (Handover.make(stolen, roster.sites["ash"], 2, _head(files, stolen)),)},
    )
    assert "its signature is not by the key" in str(broken(consortium, without_head))


def _head(files: SiteFiles, identity: Identity) -> str:
    with closing(Ledger.open(files.ledger, identity, clock)) as ledger:
        return list(ledger.entries())[1].hash


@pytest.mark.parametrize("survived", range(FILES_WRITTEN + 1))
def test_a_change_cut_short_anywhere_is_completed_by_doing_it_again(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    files, left = consortium.site("ash"), [survived]
    release(files, 0)

    def until_power_fails(write: Callable[..., None]) -> Callable[..., None]:
        def writing(*arguments: object, **options: object) -> None:
            if not left[0]:
                raise OSError("power cut")
            left[0] -= 1
            write(*arguments, **options)

        return writing

    with monkeypatch.context() as patch:
        # Each file is synced twice: itself, and its name in the folder.
        patch.setattr("hortus.runtime.files.os.fsync", until_power_fails(os.fsync))
        left[0] = 2 * survived
        with suppress(HortusError):
            rotate_identity(files, clock)
    assert left[0] == 0
    with suppress(UsageError):
        release(files, 1)
    card = rotate_identity(files, clock)
    release(files, 2)
    tell_everybody(consortium, card)
    assert broken(consortium) is None
    assert not files.next_identity.exists()


def test_a_head_signed_before_the_change_still_shows_a_rollback(consortium: Consortium) -> None:
    files = consortium.site("ash")
    release(files, 0)
    older = files.ledger.read_bytes()
    release(files, 1)
    with Site(files.directory, clock) as site:
        head = site.ledger.signed_head()
    assert head is not None
    shown = wire.Announcements(
        known_head=wire.Head(seq=head.seq, hash=head.hash, signature=head.signature)
    )
    rotate_identity(files, clock)
    with Site(files.directory, clock) as site:
        Witness(site.identity, site.roster, site.ledger).check(shown)
    files.ledger.write_bytes(older)
    with (
        Site(files.directory, clock) as site,
        pytest.raises(Refused, match="the ledger was rolled back"),
    ):
        Witness(site.identity, site.roster, site.ledger).check(shown)


def test_a_running_agent_and_a_site_without_partners_keep_their_key(
    consortium: Consortium, tmp_path: Path
) -> None:
    files = consortium.site("ash")
    with sole(files), pytest.raises(HortusError, match="an agent of this site is running"):
        rotate_identity(files, clock)
    alone = SiteFiles(tmp_path / "alone")
    create_site(alone, SiteConfig(site="alone", data=Path("x.csv")), POLICY, NOW)
    with pytest.raises(UsageError, match="has not pinned anybody yet"):
        rotate_identity(alone, clock)


def test_a_renamed_folder_goes_on_with_its_ledger_its_budget_and_its_key(
    consortium: Consortium, tmp_path: Path
) -> None:
    files = consortium.site("ash")
    release(files, 0)
    tell_everybody(consortium, rotate_identity(files, clock))
    renamed = SiteFiles(files.directory.rename(tmp_path / "elsewhere"))
    with Site(renamed.directory, clock) as site:
        spent = site.ledger.spent("d" * 64, POLICY.budget.delta)
    assert spent > 0
    release(renamed, 1)
    with Site(renamed.directory, clock) as site:
        assert site.ledger.spent("d" * 64, POLICY.budget.delta) > spent
    roster = Roster.load(consortium.site("birch").roster)
    assert audit(collect(renamed, "ash"), roster).first_broken is None


def test_a_copy_of_a_folder_that_goes_on_by_itself_is_found_beside_the_original(
    consortium: Consortium, tmp_path: Path
) -> None:
    files = consortium.site("ash")
    release(files, 0)
    copy = SiteFiles(Path(shutil.copytree(files.directory, tmp_path / "copy")))
    older = collect(copy, "ash")
    release(files, 1)
    assert forks([older, collect(files, "ash")]) == []
    release(copy, 2)
    shown = [collect(one, "ash") for one in (files, copy)]
    roster = Roster.load(consortium.site("birch").roster)
    assert [audit(one, roster).first_broken for one in shown] == [None, None], "each is whole"
    ((site, problem),) = ((one.site, one.problem) for one in forks(shown))
    assert site == "ash"
    assert "differ from entry 3:" in problem
    # Neither goes on where the other's head was countersigned.
    with Site(copy.directory, clock) as there, Site(files.directory, clock) as here:
        head = here.ledger.signed_head()
        assert head is not None
        with pytest.raises(Refused, match="does not contain entry 3"):
            require(there.ledger, head)
