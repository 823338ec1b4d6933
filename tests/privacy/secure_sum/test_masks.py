"""Masks are made chunk by chunk: the right words, the same whenever asked, little memory."""

import tracemalloc
from collections import deque

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hortus.privacy.secure_sum.masks import MaskedVector, MaskGenerator, StepView
from hortus.protocol.limits import CHUNK_WORDS
from hortus.protocol.vectors import unpack24, word_type

DIGEST = bytes(32)
KEYS = [(bytes([number]) * 32, number % 2 == 0) for number in range(3)]
LENGTH = 2 * CHUNK_WORDS + 12_345


def keystream(key: bytes, words: int) -> NDArray[np.uint32]:
    encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(4 * words)), "<u4")


def words(chunks: list[bytes]) -> NDArray[np.uint32]:
    return np.frombuffer(b"".join(chunks), "<u4")


@pytest.mark.parametrize("length", [1, 3, 2**15, 2**15 + 1, CHUNK_WORDS, LENGTH])
@pytest.mark.parametrize("dtype", [np.int64, np.uint32])
def test_a_mask_is_one_keystream_from_its_beginning_to_its_end(length: int, dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 2**31, length).astype(dtype)
    if dtype is np.int64:
        values = -values
    expected = values.astype(np.uint32)
    for key, is_added in KEYS:
        stream = keystream(key, length)
        expected = expected + stream if is_added else expected - stream
    assert np.array_equal(words(list(MaskedVector(values, KEYS).chunks())), expected)


@pytest.mark.parametrize("peers", [1, 3])
@pytest.mark.parametrize("length", [1, 2**15 + 1, LENGTH])
def test_a_ring_of_24_bits_takes_the_low_bits_of_the_same_words(length: int, peers: int) -> None:
    values = np.random.default_rng(1).integers(-(2**31), 2**31, length)
    wide = words(list(MaskedVector(values, KEYS[:peers]).chunks()))
    narrow = list(MaskedVector(values, KEYS[:peers], 24).chunks())
    assert sum(map(len, narrow)) == 3 * length
    assert narrow[-1][-3:] == int(wide[-1] % 2**24).to_bytes(3, "little")
    received = unpack24(np.frombuffer(b"".join(narrow), word_type(24)))
    assert np.array_equal(received, wide % 2**24)


@given(first=st.integers(0, 2), again=st.integers(0, 2))
@settings(max_examples=5, deadline=None)
def test_a_chunk_made_again_is_the_same(first: int, again: int) -> None:
    masked = MaskedVector(np.arange(LENGTH), KEYS)
    whole = list(masked.chunks())
    assert masked.chunk_count == len(whole) == 3
    assert list(masked.chunks(first)) == whole[first:]
    assert next(masked.chunks(again)) == whole[again]


def test_an_abandoned_upload_does_not_change_the_next() -> None:
    masked = MaskedVector(np.arange(LENGTH), KEYS)
    abandoned, whole = masked.chunks(), list(masked.chunks())
    assert next(abandoned) == whole[0]
    assert next(abandoned) == whole[1]
    assert list(masked.chunks(1)) == whole[1:]


def test_what_was_masked_cannot_be_changed_any_more() -> None:
    generator = MaskGenerator(
        site="a",
        cohort=("a", "b"),
        descriptor_digest=DIGEST,
        secrets={"b": bytes(32)},
        min_cohort=2,
    )
    values = np.arange(5)
    generator.mask(values, StepView(0, 0, ("a", "b"), DIGEST))
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1


def test_a_vector_without_masks_is_never_taken_for_masked() -> None:
    with pytest.raises(ValueError, match="at least one mask"):
        MaskedVector(np.arange(5), [])


@pytest.mark.parametrize("peers", [1, 9])
@pytest.mark.parametrize("bits", [24, 32])
def test_masking_takes_the_memory_of_two_chunks_however_long_the_vector(
    peers: int, bits: int
) -> None:
    masked = MaskedVector(np.zeros(8 * CHUNK_WORDS, np.uint32), [(bytes(32), True)] * peers, bits)
    tracemalloc.start()
    try:
        deque(map(len, masked.chunks()), maxlen=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert bits // 8 * CHUNK_WORDS <= peak <= 2 * 4 * CHUNK_WORDS
