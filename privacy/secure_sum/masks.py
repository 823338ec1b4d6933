"""Masks that cancel in a sum over all sites that received the same instructions.

A mask is an AES-256-CTR keystream read as 32-bit words, of which a smaller ring takes the low bits.
It is made where it is added, block by block, and started at any chunk, so neither a mask nor a masked
vector is ever whole in memory.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from hortus.privacy.secure_sum.transcript import derive, frame, hash_of, number
from hortus.protocol.limits import CHUNK_WORDS
from hortus.protocol.vectors import chunk_count, chunk_slice, pack24, word_type
from hortus.runtime.errors import ProtocolError, Refused
from hortus.runtime.surroundings import processors

DIGEST_BYTES = 32

_STEP_INFO = b"hortus/v1/secure-sum step"
_WORDS_PER_CIPHER_BLOCK = 4
# 256 KiB: a keystream stays in a core's cache, and threads seldom meet at the interpreter's lock. More
# than two would meet there more than they gain, and each takes memory.
_BLOCK_WORDS = 2**16
_MOST_LANES = 2
_ZEROS = bytes(4 * _BLOCK_WORDS)
_CACHE_LINE = 64


@dataclass(frozen=True, slots=True)
class StepView:
    """What a site learned about a step from the server; masks cancel only between sites that learned the same.

    Attributes:
        step: Number of the secure sum in the session.
        attempt: Number of the attempt at it.
        survivors: The sites whose vectors are summed, sorted.
        adapter_digest: SHA-256 of the adapter that the step starts from, 32 bytes.
    """

    step: int
    attempt: int
    survivors: tuple[str, ...]
    adapter_digest: bytes

    def to_bytes(self) -> bytes:
        """Returns all of it, framed."""
        survivors = hash_of(*(site.encode() for site in self.survivors))
        return frame(number(self.step), number(self.attempt), survivors, self.adapter_digest)


class MaskGenerator:
    """A site's masks in one session; made by `secure_sum.KeyExchange.agree`.

    Args:
        site: This site.
        cohort: The session's sites, sorted.
        descriptor_digest: SHA-256 of the session's descriptor, 32 bytes.
        secrets: The secret with each other site, 32 bytes.
        min_cohort: Fewest sites to mask for.
        ring_bits: 32 or 24: vectors are masked modulo 2 to this power.
    """

    def __init__(
        self,
        *,
        site: str,
        cohort: tuple[str, ...],
        descriptor_digest: bytes,
        secrets: Mapping[str, bytes],
        min_cohort: int,
        ring_bits: int = 32,
    ) -> None:
        self._site = site
        self._cohort = cohort
        self._descriptor_digest = descriptor_digest
        self._secrets = dict(secrets)
        self._min_cohort = min_cohort
        self._ring_bits = ring_bits
        self._used: set[tuple[int, int]] = set()

    def check(self, view: StepView) -> None:
        """Raises what `mask` would raise for this view; ask before paying for the step.

        Raises:
            ProtocolError: The view is malformed, or does not include this site.
            Refused: Too few sites would be summed, or this attempt has been masked for before.
        """
        where = f"step {view.step} attempt {view.attempt}"
        if not (0 <= view.step < 2**63 and 0 <= view.attempt < 2**63):
            raise ProtocolError("the numbers are out of range", where=where)
        check_digest(view.adapter_digest)
        check_members(view.survivors, "set of sites to sum", self._site, among=self._cohort)
        if len(view.survivors) < self._min_cohort:
            raise Refused(
                f"the sum would be over {len(view.survivors)} sites, the minimum is "
                f"{self._min_cohort}",
                where=where,
            )
        if (view.step, view.attempt) in self._used:
            # Two vectors under one mask differ by the difference of what they hide.
            raise Refused("a vector was already masked for it", where=where)

    def mask(
        self, values: NDArray[np.int64] | NDArray[np.uint32], view: StepView
    ) -> "MaskedVector":
        """Returns the vector plus this site's masks, in the ring, to be made chunk by chunk.

        Args:
            values: int64[d] or uint32[d], taken modulo the ring's size. Read-only from now on: a
                chunk that is made again must be the same, or two vectors would go under one mask.
            view: What the server said about the step.

        Returns:
            Uniform to everybody who lacks a secret that this site shares with a survivor.

        Raises:
            ProtocolError: See `check`.
            Refused: See `check`.
        """
        if values.ndim != 1 or values.dtype not in (np.int64, np.uint32):
            raise TypeError(
                f"only int64[d] or uint32[d] can be masked, not {values.dtype}{values.shape}"
            )
        self.check(view)
        self._used.add((view.step, view.attempt))
        values.setflags(write=False)
        seeds = tuple((seed, peer > self._site) for peer, seed in self._seeds(view))
        return MaskedVector(values, seeds, self._ring_bits)

    def _seeds(self, view: StepView) -> Iterable[tuple[str, bytes]]:
        """Yields each other survivor and the seed shared with it."""
        info = frame(
            _STEP_INFO,
            number(view.step),
            number(view.attempt),
            hash_of(*(site.encode() for site in view.survivors)),
            view.adapter_digest,
            self._descriptor_digest,
        )
        for peer in view.survivors:
            if peer != self._site:
                yield peer, derive(self._secrets[peer], info)


class MaskedVector:
    """One vector under one attempt's masks; made by `MaskGenerator.mask`.

    Args:
        values: int64[d] or uint32[d], read-only.
        seeds: A key for each mask, used for nothing else, and whether the mask is added.
        ring_bits: 32 or 24.

    Raises:
        ValueError: The vector has no masks.
    """

    def __init__(
        self,
        values: NDArray[np.int64] | NDArray[np.uint32],
        seeds: Sequence[tuple[bytes, bool]],
        ring_bits: int = 32,
    ) -> None:
        if not seeds:
            raise ValueError("a vector needs at least one mask")
        self._values = values
        self._seeds = seeds
        self._ring_bits = ring_bits

    @property
    def chunk_count(self) -> int:
        """How many chunks it has."""
        return chunk_count(len(self._values))

    def chunks(self, first: int = 0) -> Iterator[bytes]:
        """Yields the little-endian words of each chunk, of the ring's size, from one on.

        They are the same whenever asked. Beside the chunk, two threads at most have a block in memory.
        """
        length = len(self._values)
        blocks = -(-min(length, CHUNK_WORDS) // _BLOCK_WORDS)
        shares = min(processors(), _MOST_LANES, blocks)
        word = word_type(self._ring_bits)
        lanes = [_Lane(self._seeds, word) for _ in range(shares)]
        buffer = io.BytesIO(bytes(word.itemsize * min(length, CHUNK_WORDS)))
        with ThreadPoolExecutor(max(1, shares - 1), thread_name_prefix="masks") as pool:
            for sequence in range(first, chunk_count(length)):
                place = chunk_slice(sequence, length)
                # The last chunk is short: to cut memory is cheaper than to touch new pages.
                buffer.truncate(word.itemsize * (place.stop - place.start))
                self._write(np.frombuffer(buffer.getbuffer(), word), place, lanes, pool)
                # BytesIO gives its memory away without a copy, and takes other memory for the
                # next chunk only if somebody still holds this one.
                yield buffer.getvalue()

    def _write(
        self,
        words: NDArray[Any],
        place: slice,
        lanes: list["_Lane"],
        pool: ThreadPoolExecutor,
    ) -> None:
        values = self._values[place]
        blocks = -(-len(words) // _BLOCK_WORDS)
        share = -(-blocks // len(lanes)) * _BLOCK_WORDS
        busy = lanes[: -(-len(words) // share)]
        for lane, start in zip(busy, range(0, len(words), share), strict=True):
            lane.words, lane.values = words[start : start + share], values[start : start + share]
            lane.start = place.start + start
        # This thread works too; numpy and AES let go of the interpreter's lock.
        running = [pool.submit(lane.write) for lane in busy[1:]]
        busy[0].write()
        for one in running:
            one.result()


class _Lane:
    """One thread's keystreams.

    Args:
        seeds: A key for each mask, and whether the mask is added.
        word: The ring's words, see `vectors.word_type`.

    Attributes:
        values: A part of the vector.
        start: Where it begins in the vector.
        words: Where `write` puts the values plus all masks; it lets go of it in the end.
    """

    def __init__(self, seeds: Sequence[tuple[bytes, bool]], word: np.dtype[Any]) -> None:
        self.values: NDArray[np.int64] | NDArray[np.uint32] = np.empty(0, dtype=np.uint32)
        self.start = 0
        self.words: NDArray[Any] = np.empty(0, word)
        self._streams = [
            (
                Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor(),
                np.add if is_added else np.subtract,
            )
            for seed, is_added in seeds
        ]
        # A smaller ring's sum is made beside the chunk, and packed: with half blocks for as little memory.
        self._block = _BLOCK_WORDS if word == np.uint32 else _BLOCK_WORDS // 2
        self._keystream = _aligned(self._block)
        self._wide = None if word == np.uint32 else _aligned(self._block)

    def write(self) -> None:
        """Writes the masked words, a block at a time: it stays in the cache for all its masks."""
        words, self.words = self.words, self.words[:0].copy()
        counter = (self.start // _WORDS_PER_CIPHER_BLOCK).to_bytes(16, "big")
        for stream, _ in self._streams:
            stream.reset_nonce(counter)
        for offset in range(0, len(words), self._block):
            block = words[offset : offset + self._block]
            total = block if self._wide is None else self._wide[: len(block)]
            np.copyto(total, self.values[offset : offset + self._block], casting="unsafe")
            zeros = memoryview(_ZEROS)[: 4 * len(block)]
            keystream = self._keystream[: len(block)]
            out = keystream.view(np.uint8).data
            for stream, combine in self._streams:
                stream.update_into(zeros, out)
                combine(total, keystream, total)
            if self._wide is not None:
                # 2^24 divides 2^32: the low bits of the sum are the sum of the low bits.
                pack24(total, block)


def _aligned(words: int) -> NDArray[np.uint32]:
    """Returns an uninitialised array that begins a cache line: a vector addition is a fifth faster."""
    memory = np.empty(4 * words + _CACHE_LINE, np.uint8)
    skipped = -memory.ctypes.data % _CACHE_LINE
    return memory[skipped : skipped + 4 * words].view("<u4")


def check_digest(digest: bytes) -> None:
    """Raises ProtocolError unless this can be a SHA-256."""
    if len(digest) != DIGEST_BYTES:
        raise ProtocolError(f"a digest has {DIGEST_BYTES} bytes, not {len(digest)}")


def check_members(sites: Sequence[str], noun: str, own: str, *, among: Iterable[str]) -> None:
    """Raises ProtocolError unless the sites are sorted, distinct, `own` included, and all `among`."""
    if list(sites) != sorted(set(sites)):
        raise ProtocolError(f"the {noun} is not sorted and distinct")
    if foreign := set(sites).difference(among):
        raise ProtocolError(f"the {noun} has sites that do not belong in it", where=min(foreign))
    if own not in sites:
        raise ProtocolError(f"the {noun} lacks this site", where=own)
