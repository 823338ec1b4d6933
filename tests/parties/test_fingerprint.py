"""Fingerprints that two people can compare by voice."""

from mnemonic import Mnemonic

from hortus.parties.fingerprint import key_words, roster_words
from hortus.protocol.identity import Handover, Identity, Roster
from hortus.runtime.names import SERVER

SERVER_KEY = Identity.generate(SERVER).public_key_bytes
A, B = (Identity.generate(name).public_key_bytes for name in "ab")


def test_a_fingerprint_is_fifteen_words_with_a_checksum() -> None:
    words = key_words("a", A)
    assert len(words.split()) == 15
    assert Mnemonic("english").check(words)
    first, rest = words.split(maxsplit=1)
    others = [w for w in Mnemonic("english").wordlist if w != first]
    missed = sum(Mnemonic("english").check(f"{w} {rest}") for w in others)
    # A checksum of 5 bits misses one slip in 32: of 2047, about 64.
    assert missed < 128


def test_a_fingerprint_tells_names_and_keys_apart() -> None:
    assert key_words("a", A) == key_words("a", A)
    assert len({key_words("a", A), key_words("a", B), key_words("b", A), key_words("b", B)}) == 4


def test_a_rosters_fingerprint_covers_every_party() -> None:
    base = Roster({"a": A, "b": B}, SERVER_KEY)
    assert roster_words(base) == roster_words(Roster({"b": B, "a": A}, SERVER_KEY))
    others = [
        Roster({"a": A}, SERVER_KEY),
        Roster({"a": B, "b": A}, SERVER_KEY),
        Roster({"a": A, "b": SERVER_KEY}, B),
        Roster({"a": A, "c": B}, SERVER_KEY),
    ]
    assert len({roster_words(roster) for roster in (base, *others)}) == 5


def test_parties_that_joined_before_and_after_a_hand_over_have_one_fingerprint() -> None:
    old = Identity.generate("a")
    chain = (Handover.make(old, A, 3, "0" * 64),)
    assert roster_words(Roster({"a": A}, SERVER_KEY)) == roster_words(
        Roster({"a": A}, SERVER_KEY, {"a": chain})
    )
