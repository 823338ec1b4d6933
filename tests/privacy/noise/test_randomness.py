import numpy as np
from scipy.stats import binom, chisquare

from hortus.privacy.noise.randomness import SessionRandomness, UnsafeSeededRandomness


def test_no_two_sessions_have_a_stream_in_common() -> None:
    words = np.stack([SessionRandomness().stream("noise", 1).uint64(4) for _ in range(3)])
    assert len(np.unique(words)) == 12


def test_what_is_told_of_a_step_decides_on_all_streams_of_a_session() -> None:
    source = SessionRandomness(bytes(32))
    streams = [
        one.stream(*context).uint64(4).tobytes()
        for one in (source, *(source.bound(told) for told in (b"", b"a", b"b", b"ab")))
        for context in (("noise", 0, 0), ("noise", 0, 1), ("sample", 0, 0))
    ]
    assert len(set(streams)) == len(streams)
    again = SessionRandomness(bytes(32)).bound(b"a").stream("noise", 0, 0)
    assert again.uint64(4).tobytes() == streams[6]


def test_seeded_streams_repeat_and_differ_by_every_part_of_their_context() -> None:
    def draw(seed: int, site: str, *context: str | int) -> bytes:
        return UnsafeSeededRandomness(seed, site).stream(*context).uint64(4).tobytes()

    assert draw(1, "a", "noise", 0, 0) == draw(1, "a", "noise", 0, 0)
    others = [
        draw(1, "a", "noise", 0, 0),
        draw(2, "a", "noise", 0, 0),
        draw(1, "b", "noise", 0, 0),
        draw(1, "a", "sample", 0, 0),
        draw(1, "a", "noise", 1, 0),
        draw(1, "a", "noise", 0, 1),
        draw(1, "a", "noise", 0),
        draw(1, "a", "noise", "0", 0),
        draw(1, "a", "noise0", 0),
    ]
    assert len(set(others)) == len(others)


def test_a_stream_goes_on_and_does_not_start_again() -> None:
    source = UnsafeSeededRandomness(1, "a")
    whole = source.stream("x").uint64(10)
    parts = source.stream("x")
    assert np.array_equal(np.concatenate([parts.uint64(3), parts.uint64(7)]), whole)


def test_words_are_uniform() -> None:
    """False-failure rate 1e-6 over the choice of seed."""
    words = UnsafeSeededRandomness(5, "a").stream("chi").uint64(100_000)
    counts = np.bincount(words.view(np.uint8), minlength=256)
    assert chisquare(counts).pvalue > 1e-6


def test_coins_have_the_asked_probability_and_never_more() -> None:
    """Each binomial tail at 1e-6."""
    stream = UnsafeSeededRandomness(5, "a").stream("coins")
    for probability in (0.0, 0.01, 0.3, 1.0):
        hits = int(stream.bernoulli(probability, 200_000).sum())
        low, high = binom.ppf([1e-6, 1 - 1e-6], 200_000, probability)
        assert low <= hits <= high


def test_an_empty_draw_takes_nothing_from_the_stream() -> None:
    source = UnsafeSeededRandomness(1, "a")
    stream = source.stream("x")
    assert stream.uint64(0).shape == stream.bernoulli(0.5, 0).shape == (0,)
    assert np.array_equal(stream.uint64(4), source.stream("x").uint64(4))
