"""Masks cancel between sites that saw the same, and only there; forged keys are refused.

Keys come from the operating system, so the tests of uniformity cannot be seeded. Each compares the
bytes of about 2^16 words with the uniform distribution by Pearson's χ² (255 degrees of freedom) and
fails for good masks with probability 1e-7; a run has fewer than 100 of them, so fewer than one run
in 100,000 fails without a reason.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2

from hortus.privacy.secure_sum.key_exchange import (
    Announcement,
    Encapsulation,
    KeyExchange,
    _signed_announcement,
    _signed_encapsulation,
)
from hortus.privacy.secure_sum.masks import MaskGenerator, StepView
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.vectors import unpack24, word_type
from hortus.runtime.errors import ProtocolError, Refused, UsageError
from hortus.runtime.names import SERVER

NAMES = tuple(f"site-{letter}" for letter in "abcdefgh")
IDENTITIES = {name: Identity.generate(name) for name in NAMES}
SERVER_KEY = Identity.generate(SERVER).public_key_bytes
ROSTER = Roster({name: one.public_key_bytes for name, one in IDENTITIES.items()}, SERVER_KEY)
DIGEST, OTHER_DIGEST = bytes(range(32)), bytes(range(1, 33))
WORDS = 2**16
CHI2_LIMIT = float(chi2.isf(1e-7, 255))


def _announce(
    cohort: tuple[str, ...], digests: Mapping[str, bytes] | None = None
) -> dict[str, KeyExchange]:
    return {
        name: KeyExchange.announce(
            IDENTITIES[name], ROSTER, cohort, (digests or {}).get(name, DIGEST)
        )
        for name in cohort
    }


def _announced(exchanges: Mapping[str, KeyExchange]) -> dict[str, Announcement]:
    return {name: one.announcement for name, one in exchanges.items()}


Mail = dict[tuple[str, str], Encapsulation]  # by sender and receiver


def _encapsulate(exchanges: Mapping[str, KeyExchange]) -> Mail:
    announcements = list(_announced(exchanges).values())
    sent = [one for e in exchanges.values() for one in e.encapsulate(announcements)]
    return {(one.sender, one.receiver): one for one in sent}


def _inbox(sent: Mail, site: str) -> list[Encapsulation]:
    return [one for (_, receiver), one in sent.items() if receiver == site]


def _generators(count: int, min_cohort: int = 2, ring_bits: int = 32) -> dict[str, MaskGenerator]:
    exchanges = _announce(NAMES[:count])
    sent = _encapsulate(exchanges)
    return {
        n: e.agree(_inbox(sent, n), min_cohort=min_cohort, ring_bits=ring_bits)
        for n, e in exchanges.items()
    }


def _view(survivors: tuple[str, ...], step: int = 0, attempt: int = 0) -> StepView:
    return StepView(step, attempt, survivors, DIGEST)


def mask(
    generator: MaskGenerator, values: NDArray[np.int64] | NDArray[np.uint32], view: StepView
) -> NDArray[np.uint32]:
    return np.frombuffer(b"".join(generator.mask(values, view).chunks()), "<u4")


def sum_ring(vectors: Iterable[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    return np.sum(list(vectors), axis=0, dtype=np.uint32)


def _is_uniform(words: NDArray[np.uint32] | NDArray[np.uint8]) -> bool:
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = words.nbytes / 256
    return float(((counts - expected) ** 2 / expected).sum()) < CHI2_LIMIT


class TestSum:
    @given(data=st.data())
    @settings(max_examples=25, deadline=None)
    def test_masks_cancel_for_any_survivors(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(2, 8))
        generators = _generators(count)
        for attempt in range(2):
            survivors = tuple(
                sorted(data.draw(st.sets(st.sampled_from(NAMES[:count]), min_size=2)))
            )
            seed = data.draw(st.integers(0, 2**32 - 1))
            rng = np.random.default_rng(seed)
            vectors = {n: rng.integers(-(2**40), 2**40, 70) for n in survivors}
            view = _view(survivors, step=data.draw(st.integers(0, 2**62)), attempt=attempt)
            total = sum_ring(mask(generators[n], vectors[n], view) for n in survivors)
            expected = np.sum(list(vectors.values()), axis=0)
            assert np.array_equal(total, expected.astype(np.uint32))

    @pytest.mark.parametrize("length", [0, 1, 2**16 - 1, 2**16, 2**16 + 1, 3 * 2**16 + 5])
    def test_lengths_around_the_chunks_cancel(self, length: int) -> None:
        generators = _generators(3)
        values = np.arange(length, dtype=np.uint32)
        total = sum_ring(mask(g, values, _view(NAMES[:3])) for g in generators.values())
        assert np.array_equal(total, 3 * values)

    def test_masks_cancel_in_a_ring_of_24_bits_and_one_upload_is_uniform(self) -> None:
        values = np.arange(-WORDS // 2, WORDS // 2)
        generators = _generators(3, ring_bits=24)
        uploads = [
            b"".join(g.mask(values.copy(), _view(NAMES[:3])).chunks()) for g in generators.values()
        ]
        assert all(_is_uniform(np.frombuffer(upload, np.uint8)) for upload in uploads)
        total = sum_ring(unpack24(np.frombuffer(upload, word_type(24))) for upload in uploads)
        assert np.array_equal(total % 2**24, 3 * values % 2**24)
        partial = sum_ring(unpack24(np.frombuffer(one, word_type(24))) for one in uploads[:2])
        assert not np.array_equal(partial % 2**24, 2 * values % 2**24)

    def test_the_argument_is_not_changed(self) -> None:
        values = np.arange(10, dtype=np.uint32)
        _generators(2)[NAMES[0]].mask(values, _view(NAMES[:2]))
        assert np.array_equal(values, np.arange(10))

    def test_a_masked_zero_is_uniform(self) -> None:
        generators = _generators(3)
        for generator in generators.values():
            assert _is_uniform(mask(generator, np.zeros(WORDS, np.int64), _view(NAMES[:3])))

    def test_a_partial_sum_is_uniform(self) -> None:
        generators = _generators(4)
        zeros = np.zeros(WORDS, np.int64)
        uploads = [mask(generators[n], zeros, _view(NAMES[:4])) for n in NAMES[:3]]
        assert _is_uniform(sum_ring(uploads))

    def test_masks_of_two_steps_and_two_attempts_are_unrelated(self) -> None:
        generator = _generators(2)[NAMES[0]]
        zeros = np.zeros(WORDS, np.int64)
        first = mask(generator, zeros, _view(NAMES[:2], 0, 0))
        assert _is_uniform(first - mask(generator, zeros, _view(NAMES[:2], 0, 1)))
        assert _is_uniform(first - mask(generator, zeros, _view(NAMES[:2], 1, 0)))


class TestViews:
    """One site is told something else than the others: the server must get noise."""

    @pytest.mark.parametrize(
        "lie",
        [
            {"step": 1},
            {"attempt": 1},
            {"adapter_digest": OTHER_DIGEST},
            {"survivors": NAMES[:4]},
            {"survivors": NAMES[:2]},
        ],
        ids=["step", "attempt", "adapter", "more sites", "fewer sites"],
    )
    def test_a_split_view_gives_noise(self, lie: dict[str, object]) -> None:
        generators = _generators(4)
        truth = _view(NAMES[:3])
        told = {NAMES[0]: replace(truth, **lie), NAMES[1]: truth, NAMES[2]: truth}  # type: ignore[arg-type]
        zeros = np.zeros(WORDS, np.int64)
        total = sum_ring(mask(generators[name], zeros, view) for name, view in told.items())
        assert _is_uniform(total)

    def test_the_incomplete_attempt_stays_noise_after_the_sum_was_re_formed(self) -> None:
        """Attempt 0 lacks one upload; attempt 1 over the others says nothing about its rest."""
        generators = _generators(4)
        zeros = np.zeros(WORDS, np.int64)
        first = {n: mask(generators[n], zeros, _view(NAMES[:4], 0, 0)) for n in NAMES[:4]}
        second = {n: mask(generators[n], zeros, _view(NAMES[:3], 0, 1)) for n in NAMES[:3]}
        assert not sum_ring(second.values()).any()
        without_late = sum_ring(first[n] for n in NAMES[:3])
        assert _is_uniform(without_late)
        assert _is_uniform(without_late - sum_ring(second.values()))
        # Adding the late upload completes attempt 0: its difference to attempt 1 is one site's
        # vector. This is why the server must never do it, and why attempt 0 was charged.
        assert not sum_ring([without_late, first[NAMES[3]]]).any()

    def test_half_an_upload_completes_an_attempt_at_its_own_places_only(self) -> None:
        generators = _generators(4)
        zeros, half = np.zeros(2 * WORDS, np.int64), WORDS
        uploads = [mask(generators[n], zeros, _view(NAMES[:4])) for n in NAMES[:4]]
        uploads[3] = np.concatenate([uploads[3][:half], np.zeros(WORDS, np.uint32)])
        total = sum_ring(uploads)
        assert not total[:half].any()  # a server that keeps chunks has this: so it was charged
        assert _is_uniform(total[half:])

    @pytest.mark.parametrize(
        ("survivors", "error"),
        [
            ((NAMES[1], NAMES[0], NAMES[2]), ProtocolError),
            ((NAMES[0], NAMES[0], NAMES[1]), ProtocolError),
            ((NAMES[0], NAMES[1], "stranger"), ProtocolError),
            ((NAMES[1], NAMES[2], NAMES[3]), ProtocolError),
            ((NAMES[0], NAMES[1]), Refused),
            ((NAMES[0],), Refused),
            ((), ProtocolError),
        ],
    )
    def test_a_set_of_sites_that_is_not_allowed_is_refused(
        self, survivors: tuple[str, ...], error: type[Exception]
    ) -> None:
        generator = _generators(4, min_cohort=3)[NAMES[0]]
        with pytest.raises(error):
            generator.mask(np.zeros(4, np.int64), _view(survivors))
        generator.check(_view(NAMES[:3]))  # and nothing was used up

    def test_an_attempt_is_masked_for_once(self) -> None:
        generator = _generators(3)[NAMES[0]]
        generator.mask(np.zeros(4, np.int64), _view(NAMES[:3], 5, 1))
        with pytest.raises(Refused, match="step 5 attempt 1: a vector was already masked"):
            generator.mask(np.zeros(4, np.int64), _view(NAMES[:2], 5, 1))

    @pytest.mark.parametrize(
        "wrong", [{"step": -1}, {"attempt": 2**64}, {"adapter_digest": b"short"}]
    )
    def test_malformed_views_are_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ProtocolError):
            _generators(2)[NAMES[0]].check(replace(_view(NAMES[:2]), **wrong))  # type: ignore[arg-type]

    @pytest.mark.parametrize("values", [np.zeros(3), np.zeros((2, 2), np.int64)])
    def test_only_ring_vectors_are_masked(self, values: NDArray[np.int64]) -> None:
        with pytest.raises(TypeError):
            _generators(2)[NAMES[0]].mask(values, _view(NAMES[:2]))


COHORT = NAMES[:3]
VICTIM, PEER, LAST = COHORT


def _forge(site: str, signer: str, digest: bytes = DIGEST) -> Announcement:
    """Returns a fresh announcement in the name of `site`, signed by `signer`."""
    identity = Identity(site, IDENTITIES[signer]._key)
    roster = Roster({site: identity.public_key_bytes}, SERVER_KEY)
    return KeyExchange.announce(identity, roster, (site,), digest).announcement


class TestAnnouncements:
    def _refuse(self, announcements: list[Announcement], exchange: KeyExchange, text: str) -> None:
        with pytest.raises(ProtocolError, match=text):
            exchange.encapsulate(announcements)
        with pytest.raises(RuntimeError, match="finished"):
            exchange.encapsulate(announcements)

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"x25519": X25519PrivateKey.generate().public_key().public_bytes_raw()}, "signature"),
            ({"mlkem": MLKEM768PrivateKey.generate().public_key().public_bytes_raw()}, "signature"),
            ({"signature": bytes(64)}, "signature"),
            ({"signature": b""}, "signature"),
            ({"x25519": b""}, "length"),
            ({"mlkem": b""}, "length"),
            ({"site": LAST}, "arrived twice"),
            ({"site": NAMES[5]}, "no message of this site is expected"),
        ],
    )
    def test_altered_keys_of_a_peer_are_refused(self, change: dict[str, object], text: str) -> None:
        exchanges = _announce(COHORT)
        announced = _announced(exchanges)
        announced[PEER] = replace(announced[PEER], **change)  # type: ignore[arg-type]
        self._refuse(list(announced.values()), exchanges[VICTIM], text)

    def test_keys_that_the_server_made_for_a_peer_are_refused(self) -> None:
        exchanges = _announce(COHORT)
        announced = _announced(exchanges) | {PEER: _forge(PEER, signer=NAMES[7])}
        self._refuse(list(announced.values()), exchanges[VICTIM], f"{PEER}: its signature")

    def test_keys_of_another_session_are_refused(self) -> None:
        exchanges = _announce(COHORT)
        announced = _announced(exchanges) | {PEER: _forge(PEER, PEER, OTHER_DIGEST)}
        self._refuse(list(announced.values()), exchanges[VICTIM], f"{PEER}: its signature")

    def test_a_site_that_saw_another_descriptor_is_refused(self) -> None:
        exchanges = _announce(COHORT, {LAST: OTHER_DIGEST})
        announced = list(_announced(exchanges).values())
        self._refuse(announced, exchanges[VICTIM], f"{LAST}: its signature")

    def test_swapped_names_are_refused(self) -> None:
        exchanges = _announce(COHORT)
        announced = _announced(exchanges)
        swapped = [
            announced[VICTIM],
            replace(announced[PEER], site=LAST),
            replace(announced[LAST], site=PEER),
        ]
        self._refuse(swapped, exchanges[VICTIM], "signature")

    def test_another_announcement_under_the_own_name_is_refused(self) -> None:
        exchanges = _announce(COHORT)
        announced = _announced(exchanges) | {VICTIM: _forge(VICTIM, VICTIM)}
        self._refuse(list(announced.values()), exchanges[VICTIM], "came back altered")

    def test_a_missing_announcement_is_refused(self) -> None:
        exchanges = _announce(COHORT)
        announced = _announced(exchanges)
        del announced[PEER]
        self._refuse(list(announced.values()), exchanges[VICTIM], f"{PEER}: .*missing")

    @pytest.mark.parametrize(
        "cohort",
        [
            (PEER, VICTIM, LAST),
            (VICTIM, VICTIM, PEER),
            (PEER, LAST),
            (VICTIM, PEER, "stranger"),
        ],
    )
    def test_a_cohort_that_is_not_pinned_is_refused(self, cohort: tuple[str, ...]) -> None:
        with pytest.raises(ProtocolError):
            KeyExchange.announce(IDENTITIES[VICTIM], ROSTER, cohort, DIGEST)

    def test_a_site_whose_own_key_changed_is_told_so(self) -> None:
        renewed = Identity.generate(VICTIM)
        with pytest.raises(UsageError, match="another key for this site"):
            KeyExchange.announce(renewed, ROSTER, COHORT, DIGEST)

    def test_an_x25519_key_of_small_order_is_refused(self) -> None:
        """A site in the roster that colludes can sign such a key; its peer notices."""
        exchanges = _announce(COHORT)
        signer, zero = exchanges[PEER], bytes(32)
        signed = _signed_announcement(DIGEST, PEER, zero, signer.announcement.mlkem)
        signature = IDENTITIES[PEER].sign("secure-sum announcement", signed)
        signer.announcement = replace(signer.announcement, x25519=zero, signature=signature)
        with pytest.raises(ProtocolError, match=f"{PEER}: .*small order"):
            exchanges[VICTIM].encapsulate(one.announcement for one in exchanges.values())


class TestEncapsulations:
    def _sent(self) -> tuple[dict[str, KeyExchange], Mail]:
        exchanges = _announce(COHORT)
        return exchanges, _encapsulate(exchanges)

    def _refuse(self, exchange: KeyExchange, received: list[Encapsulation], text: str) -> None:
        with pytest.raises(ProtocolError, match=text):
            exchange.agree(received, min_cohort=2)
        with pytest.raises(RuntimeError, match="finished"):
            exchange.agree(received, min_cohort=2)

    @pytest.mark.parametrize("bit", [0, 1087 * 8])
    def test_an_altered_ciphertext_is_refused(self, bit: int) -> None:
        exchanges, sent = self._sent()
        one = sent[VICTIM, LAST]
        flipped = bytearray(one.ciphertext)
        flipped[bit // 8] ^= 1
        sent[VICTIM, LAST] = replace(one, ciphertext=bytes(flipped))
        self._refuse(exchanges[LAST], _inbox(sent, LAST), f"{VICTIM}: its signature")

    def test_a_ciphertext_altered_by_its_own_sender_gives_noise(self) -> None:
        exchanges, sent = self._sent()
        signed = _signed_encapsulation(
            DIGEST, VICTIM, LAST, exchanges[VICTIM]._announced, bytes(1088)
        )
        signature = IDENTITIES[VICTIM].sign("secure-sum encapsulation", signed)
        sent[VICTIM, LAST] = Encapsulation(VICTIM, LAST, bytes(1088), signature)
        generators = {n: e.agree(_inbox(sent, n), min_cohort=2) for n, e in exchanges.items()}
        zeros = np.zeros(WORDS, np.int64)
        assert _is_uniform(sum_ring(mask(g, zeros, _view(COHORT)) for g in generators.values()))

    def test_a_ciphertext_for_another_site_is_refused(self) -> None:
        exchanges, sent = self._sent()
        misled = [sent[VICTIM, LAST], sent[LAST, PEER]]
        self._refuse(exchanges[PEER], misled, f"{VICTIM}: .*addressed to another site")
        exchanges, sent = self._sent()
        misled = [replace(sent[VICTIM, LAST], receiver=PEER), sent[LAST, PEER]]
        self._refuse(exchanges[PEER], misled, f"{VICTIM}: its signature")

    @pytest.mark.parametrize(
        ("sender", "receiver", "length"),
        [(VICTIM, LAST, 0), (VICTIM, LAST, 1087), (LAST, VICTIM, 1088), (LAST, VICTIM, 1)],
    )
    def test_a_ciphertext_of_wrong_length_is_refused(
        self, sender: str, receiver: str, length: int
    ) -> None:
        exchanges, sent = self._sent()
        sent[sender, receiver] = replace(sent[sender, receiver], ciphertext=bytes(length))
        self._refuse(exchanges[receiver], _inbox(sent, receiver), f"{sender}: .*wrong length")

    def test_missing_repeated_and_foreign_ones_are_refused(self) -> None:
        exchanges, sent = self._sent()
        self._refuse(exchanges[LAST], [sent[VICTIM, LAST]], f"{PEER}: .*missing")
        exchanges, sent = self._sent()
        received = _inbox(sent, LAST)
        self._refuse(exchanges[LAST], [*received, received[0]], f"{VICTIM}: .*arrived twice")
        exchanges, sent = self._sent()
        stranger = replace(sent[PEER, LAST], sender="stranger")
        self._refuse(exchanges[LAST], [*_inbox(sent, LAST), stranger], "no message of this site")

    def test_ciphertexts_of_another_session_are_refused(self) -> None:
        _, old = self._sent()
        exchanges, sent = self._sent()
        sent[PEER, VICTIM] = old[PEER, VICTIM]
        self._refuse(exchanges[VICTIM], _inbox(sent, VICTIM), f"{PEER}: its signature")

    @pytest.mark.parametrize("deceived", [VICTIM, PEER])
    def test_a_site_that_announced_two_sets_of_keys_is_noticed(self, deceived: str) -> None:
        """A colluding site shows one peer other keys: what they say to each other covers all
        announcements, whichever of the two sends the ciphertext."""
        exchanges = _announce(COHORT)
        announced = _announced(exchanges)
        other = announced | {LAST: _forge(LAST, LAST)}
        sent = {}
        for name, exchange in exchanges.items():
            seen = other if name == deceived else announced
            for one in exchange.encapsulate(list(seen.values())):
                sent[one.sender, one.receiver] = one
        for name in (VICTIM, PEER):
            self._refuse(exchanges[name], _inbox(sent, name), "its signature")


def test_the_verbs_come_once_and_in_order() -> None:
    exchanges = _announce(COHORT)
    with pytest.raises(RuntimeError, match="announced, not encapsulated"):
        exchanges[VICTIM].agree([], min_cohort=2)
    exchanges = _announce(COHORT)
    announced = list(_announced(exchanges).values())
    exchanges[VICTIM].encapsulate(announced)
    with pytest.raises(RuntimeError, match="encapsulated, not announced"):
        exchanges[VICTIM].encapsulate(announced)
