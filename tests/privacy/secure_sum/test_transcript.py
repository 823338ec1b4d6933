"""No two lists of parts are framed alike, and derivations are those of RFC 5869."""

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from hortus.privacy.secure_sum.transcript import derive, frame, hash_of, number

PARTS = st.lists(st.binary(max_size=5), max_size=4)


@given(PARTS, PARTS)
def test_lists_that_differ_are_framed_differently(one: list[bytes], other: list[bytes]) -> None:
    assert (frame(*one) == frame(*other)) is (one == other)
    assert (hash_of(*one) == hash_of(*other)) is (one == other)


def test_parts_cannot_be_moved_from_one_to_the_next() -> None:
    assert frame(b"ab", b"c") != frame(b"a", b"bc") != frame(b"abc") != frame(b"abc", b"")


def test_a_number_has_eight_bytes_most_significant_first() -> None:
    assert number(258) == bytes(6) + b"\x01\x02"
    assert number(2**64 - 1) == b"\xff" * 8


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=40))
def test_a_derivation_is_hkdf_written_out(secret: bytes, info: bytes) -> None:
    extracted = hmac.digest(bytes(32), secret, hashlib.sha256)
    assert derive(secret, info) == hmac.digest(extracted, info + b"\x01", hashlib.sha256)
