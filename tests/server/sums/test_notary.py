"""The notary remembers, countersigns what a site has signed, and nothing older than it has seen."""

from pathlib import Path

import pytest

from hortus.protocol.descriptor import Descriptor
from hortus.protocol.heads import Countersignature, LedgerHead
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.plan import Cohort
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import HortusError, ProtocolError
from hortus.runtime.names import SERVER
from hortus.server.sums.aggregator import Aggregator
from hortus.server.sums.notary import Notary
from hortus.server.sums.service import Hub

ASH, BIRCH = Identity.generate("ash"), Identity.generate("birch")
OWN = Identity.generate(SERVER)
KEY = ASH.public_key_bytes


def _head(seq: int, letter: str = "a", signer: Identity = ASH) -> LedgerHead:
    return LedgerHead.sign(signer, seq, letter * 64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "heads.sqlite"


def _open(path: Path) -> Notary:
    return Notary(OWN, path, lambda: 1.8e9)


def test_the_last_head_is_countersigned_and_remembered_over_restarts(path: Path) -> None:
    first = _open(path)
    assert first.known("ash") is None
    done = first.countersign(_head(1), KEY)
    assert done == Countersignature(_head(1), 1.8e9, done.signature)
    assert done.is_signed_by(OWN.public_key_bytes)
    assert not done.is_signed_by(ASH.public_key_bytes)
    first.countersign(_head(7, "b"), KEY)
    again = _open(path)
    assert again.known("ash") == _head(7, "b")
    told = again.remind("ash", wire.Announcements())
    assert (told.known_head.seq, told.known_head.hash) == (7, "b" * 64)
    assert not again.remind("birch", wire.Announcements()).HasField("known_head")


@pytest.mark.parametrize("head", [_head(6), _head(7, "c")], ids=["older", "another"])
def test_an_older_copy_is_not_countersigned(path: Path, head: LedgerHead) -> None:
    notary = _open(path)
    notary.countersign(_head(7, "b"), KEY)
    with pytest.raises(ProtocolError, match="an older copy is in place"):
        notary.countersign(head, KEY)
    notary.countersign(_head(7, "b"), KEY)
    assert notary.known("ash") == _head(7, "b")


def test_a_head_that_the_site_did_not_sign_is_not_countersigned(path: Path) -> None:
    notary = _open(path)
    for signer in (BIRCH, OWN):
        forged = LedgerHead("ash", 1, "a" * 64, _head(1, signer=signer).signature)
        with pytest.raises(ProtocolError, match="does not match"):
            notary.countersign(forged, KEY)
    assert notary.known("ash") is None


def test_a_site_that_has_changed_its_key_is_countersigned_without_a_restart(path: Path) -> None:
    """The notary lives as long as the server, a roster as long as a session."""
    hub, following = Hub(_open(path)), Identity.generate("ash")
    descriptor = Descriptor(
        run="1" * 32,
        session="2" * 32,
        contract="3" * 64,
        cohort=("ash", "birch"),
        first_round=0,
        dimension=1,
        scale=1,
    )
    for signer in (ASH, following):
        keys = {"ash": signer.public_key_bytes, "birch": BIRCH.public_key_bytes}
        roster = Roster(keys, OWN.public_key_bytes)
        session = Aggregator(descriptor, Cohort(minimum=2), roster)
        session.close("it is over")
        head = wire.Head(seq=1, hash="a" * 64, signature=_head(1, signer=signer).signature)
        turn = hub.ready(session, "ash", wire.ReadyRequest(session="2" * 32, head=head))
        assert turn.HasField("countersignature")


def test_a_file_that_cannot_be_used_any_more_is_named(path: Path) -> None:
    notary = _open(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(HortusError, match=r"heads\.sqlite: it cannot be used"):
        notary.countersign(_head(1), KEY)


def test_an_anchor_reads_back(tmp_path: Path) -> None:
    _head(3).save(tmp_path / "anchor.json")
    assert LedgerHead.load(tmp_path / "anchor.json") == _head(3)
