"""A lock belongs to who works; who only looks is in nobody's way."""

import fcntl
import threading
from pathlib import Path

import pytest

from hortus.runtime.errors import HortusError
from hortus.runtime.locks import held, is_held

TAKEN = HortusError("it is taken")


def test_a_lock_is_held_by_one_and_ends_with_the_block(tmp_path: Path) -> None:
    lock = tmp_path / "run" / "lock"
    assert not is_held(lock)
    with held(lock, TAKEN):
        assert is_held(lock)
        with pytest.raises(HortusError, match="taken"), held(lock, TAKEN):
            pass
    assert not is_held(lock)


def test_whoever_looks_at_that_moment_keeps_nobody_from_starting(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    with lock.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        gone = threading.Timer(0.02, looking.close)
        gone.start()
        with held(lock, TAKEN):
            assert is_held(lock)
        gone.join()
