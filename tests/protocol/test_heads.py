"""A ledger's head is its site's statement, a countersignature the server's; nobody else can make either."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hortus.protocol.heads import Countersignature, LedgerHead
from hortus.protocol.identity import Identity
from hortus.runtime.errors import UsageError
from hortus.runtime.names import SERVER

ASH, SERVERS = Identity.generate("ash"), Identity.generate(SERVER)
HEAD = LedgerHead.sign(ASH, 7, "a" * 64)
SEEN = Countersignature.make(SERVERS, HEAD, 1.8e9)


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "birch"},
        {"seq": 8},
        {"hash": "b" * 64},
        {"signature": bytes(64)},
        {"signature": b""},
    ],
    ids=str,
)
def test_a_head_that_was_changed_is_nobodys(changes: dict[str, Any]) -> None:
    assert HEAD.is_signed_by(ASH.public_key_bytes)
    assert not HEAD.is_signed_by(SERVERS.public_key_bytes)
    changed = replace(HEAD, **changes)
    assert not changed.is_signed_by(ASH.public_key_bytes)
    if "signature" not in changes:
        assert not replace(SEEN, head=changed).is_signed_by(SERVERS.public_key_bytes)


def test_a_countersignature_is_of_one_head_at_one_time() -> None:
    assert SEEN.is_signed_by(SERVERS.public_key_bytes)
    assert not SEEN.is_signed_by(ASH.public_key_bytes)
    assert not replace(SEEN, time=1.9e9).is_signed_by(SERVERS.public_key_bytes)
    as_head = replace(HEAD, signature=SEEN.signature)
    assert not as_head.is_signed_by(SERVERS.public_key_bytes), "one statement is not the other"


def test_an_anchor_reads_back(tmp_path: Path) -> None:
    HEAD.save(tmp_path / "anchor")
    assert LedgerHead.load(tmp_path / "anchor") == HEAD


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"7", b"\xff", b'{"site": "ash", "seq": "x", "hash": "a", "signature": ""}',
     b'{"site": "ash", "seq": 1, "hash": "a", "signature": "zz"}', b"[" * 100_000],
    ids=lambda content: content[:20],
)  # fmt: skip
def test_what_is_no_anchor_is_said_with_its_place(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "anchor"
    with pytest.raises(UsageError, match="cannot be read"):
        LedgerHead.load(path)
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not an anchor") as caught:
        LedgerHead.load(path)
    assert caught.value.where == str(path)
