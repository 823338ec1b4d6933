"""Whether a ledger's entries are whole, in order and signed, and what others have seen of them."""

import math
import multiprocessing
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain

from hortus.privacy.audit.evidence import Evidence, Row
from hortus.privacy.audit.findings import Finding, broken, warning
from hortus.privacy.ledger.entries import GENESIS, SIGNATURE_CONTEXT, Entry, content_hash
from hortus.protocol.heads import Countersignature, LedgerHead
from hortus.protocol.identity import Roster, is_signed
from hortus.runtime.moments import moment
from hortus.runtime.surroundings import processors

# Fewer signatures than this are checked sooner than another process starts.
_MANY = 5_000
_CHUNK = 1_000
# With two, signatures take no longer than all else does meanwhile.
_MOST_HELPERS = 2
# By so much may clocks of two parties differ, in seconds.
_CLOCKS = 3600.0

Signed = tuple[bytes, str, bytes]  # raw public key, hash, signature


@contextmanager
def checked_signatures(evidence: Evidence, roster: Roster) -> Iterator[Iterator[bool]]:
    """Yields, row by row, whether the site's key signed it: many of them by the other processors.

    Checking a signature is most of what an audit computes, and needs nothing but the signature.
    """
    site, known = evidence.site, evidence.site in roster.sites
    signed: list[Signed] = [
        (roster.key_at(site, number) if known else b"", hash_, signature)
        for number, _, hash_, signature in evidence.rows
    ]
    helpers = min(_MOST_HELPERS, processors() - 1)
    if len(signed) < _MANY or not helpers:
        yield map(_is_signed, signed)
        return
    chunks = [signed[start : start + _CHUNK] for start in range(0, len(signed), _CHUNK)]
    with ProcessPoolExecutor(helpers, multiprocessing.get_context("spawn")) as pool:
        yield chain.from_iterable(pool.map(_are_signed, chunks))


def _are_signed(chunk: list[Signed]) -> list[bool]:
    return [_is_signed(one) for one in chunk]


def _is_signed(one: Signed) -> bool:
    key, hash_, signature = one
    try:
        message = bytes.fromhex(hash_)
    except ValueError:
        return False
    return is_signed(key, SIGNATURE_CONTEXT, message, signature)


class Chain:
    """Numbers, hashes, signatures and times, entry after entry."""

    def __init__(self, site: str, roster: Roster) -> None:
        self.head: tuple[int, str] = (0, GENESIS)
        self._site = site
        self._roster = roster
        self._time = -math.inf

    def read(self, row: Row) -> Entry | Finding:
        """Returns the entry in a row; if it cannot be read, says so and continues after it."""
        number, content, hash_, signature = row
        try:
            return Entry.parse(content, hash_, signature)
        except ValueError as error:
            missing = number != self.head[0] + 1
            number, self.head = (self.head[0] + 1 if missing else number), (number, hash_)
            if missing:
                return broken(number, "it is missing", "An entry was deleted or renumbered.")
            return broken(number, f"it cannot be read: {error}", "A value in it was changed.")

    def check(self, number: int, entry: Entry, *, is_signed: bool) -> Finding | None:
        """Returns the first discrepancy, and continues from this entry."""
        (before, previous), self.head = self.head, (number, entry.hash)
        if number != before + 1:
            return broken(before + 1, "it is missing", "An entry was deleted or renumbered.")
        if entry.seq != number:
            return broken(
                number, f"it says that it is number {entry.seq}", "Entries were renumbered."
            )
        if entry.hash != content_hash(entry.content):
            return broken(
                number,
                "its hash does not match its content",
                "A value in it was changed after it was written.",
            )
        if entry.previous_hash != previous:
            return broken(
                number,
                "it does not continue the entry before it",
                "This entry or the one before it was replaced, inserted or moved.",
            )
        if self._site not in self._roster.sites:
            return broken(
                number, "the roster has no such site", "The ledger belongs to another consortium."
            )
        for handover in self._roster.handovers.get(self._site, ()):
            if number == handover.last_entry and entry.hash != handover.head:
                return broken(
                    number,
                    "it is not the entry after which the site changed its key",
                    "The entries before the change were replaced, with the site's former key.",
                )
        if not is_signed:
            return broken(
                number,
                f"its signature is not by the key of {self._site}",
                "Somebody without the site's key wrote it, or the roster has a different key.",
            )
        return None

    def late(self, entry: Entry) -> Iterator[Finding]:
        """Yields a warning if the entry is older than the one before it."""
        before, self._time = self._time, entry.time
        if entry.time < before:
            yield warning(
                entry.seq,
                f"it is {before - entry.time:.0f} s older than the entry before it",
                "The site's clock was set back; the order of entries is still certain.",
            )


def check_heads(
    evidence: Evidence,
    roster: Roster,
    anchor: LedgerHead | None,
    hashes: Mapping[int, str],
    first_misfit: float = math.inf,
) -> Iterator[Finding]:
    """Yields the first entry that others have seen and that is not, or not any more, there.

    Args:
        evidence: What the site shows.
        roster: Keys that the auditor trusts.
        anchor: A head that was kept elsewhere.
        hashes: Of the entries, by number.
        first_misfit: Number of the first entry that does not fit the chain: what others have seen of it and of
            later ones cannot be there, and says nothing more.
    """
    made_up = [one.head.seq for one in evidence.countersignatures if not vouches(one, roster)]
    if made_up:
        yield _made_up(made_up)
    seen = [
        (o.head, "the server countersigned")
        for o in evidence.countersignatures
        if vouches(o, roster)
    ]
    if anchor is not None:
        if anchor.site != evidence.site or not anchor.is_signed_by(
            roster.key_at(evidence.site, anchor.seq)
        ):
            yield broken(
                anchor.seq, "the anchor is not signed by this site", "It belongs to another site."
            )
        else:
            seen.append((anchor, "the anchor holds"))
    for head, who in sorted(seen, key=lambda one: one[0].seq):
        if hashes.get(head.seq) != head.hash:
            if head.seq < first_misfit:
                yield _gone(head, hashes, who)
            return


def _made_up(numbers: list[int]) -> Finding:
    meaning = "It was made up, or the server was replaced without a hand-over of its key."
    if len(numbers) == 1:
        problem = "a countersignature of it is not by the server's key, so it vouches for nothing"
        return warning(numbers[0], problem, meaning)
    problem = (
        f"{len(numbers)} countersignatures, from this entry to entry {max(numbers)}, are not by the server's "
        "key, so they vouch for nothing"
    )
    meaning = (
        "The roster has another server, or they were made up, or the server was replaced without "
    )
    return warning(min(numbers), problem, f"{meaning}a hand-over of its key.")


def vouches(one: Countersignature, roster: Roster) -> bool:
    """Returns whether a key that the server has, or has handed over, made a countersignature."""
    return any(map(one.is_signed_by, roster.server_keys()))


def check_times(
    evidence: Evidence, roster: Roster, times: Mapping[int, float]
) -> Iterator[Finding]:
    """Yields entries dated after the server saw them, or before it saw one that they follow."""
    signed = [one for one in evidence.countersignatures if vouches(one, roster)]
    seen = sorted((one.head.seq, one.time) for one in signed)
    later = iter(sorted(times.items()))
    latest = -math.inf
    following = next(later, None)
    for seq, time in [*seen, (math.inf, math.inf)]:
        while following is not None and following[0] <= seq:
            entry, own = following
            if own > time + _CLOCKS or own < latest - _CLOCKS:
                yield warning(
                    entry,
                    f"its time is {moment(own)}; the server countersigned "
                    + (
                        f"it at {moment(time)}"
                        if own > time
                        else f"one before it at {moment(latest)}"
                    ),
                    "The site's clock or the server's was wrong. Budgets of calendar periods depend on it.",
                )
            following = next(later, None)
        latest = max(latest, time)


def _gone(head: LedgerHead, hashes: Mapping[int, str], who: str) -> Finding:
    last = max(hashes, default=0)
    if head.seq in hashes:
        return broken(
            head.seq,
            f"it is not the entry that {who}",
            "The ledger was rolled back to an older copy that was then used, or it was rewritten from this "
            "entry with the site's key.",
        )
    return broken(
        last + 1,
        f"it is missing: {who} entry {head.seq}",
        "The ledger was rolled back to an older copy, or its end was cut off.",
    )
