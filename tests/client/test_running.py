"""A site leaves its sessions in an orderly way, and hangs up on those that last longer."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hortus.client import running
from hortus.client.running import RunningSessions
from hortus.runtime.errors import Refused


class Held:
    """A session that ends when it is told to, or only when it is hung up on."""

    def __init__(self, *, waits: bool, obeys: bool) -> None:
        self.ended, self.hung_up = threading.Event(), False
        self._waits, self._obeys = waits, obeys

    def stop(self) -> bool:
        if self._obeys:
            self.ended.set()
        return self._waits

    def hang_up(self) -> None:
        self.hung_up = True
        self.ended.set()


@contextmanager
def held_in(sessions: RunningSessions, held: Any) -> Iterator[None]:
    joined = threading.Event()

    def take_part() -> None:
        with sessions.counted(held, held.hang_up):
            joined.set()
            held.ended.wait(10)

    thread = threading.Thread(target=take_part)
    thread.start()
    assert joined.wait(10)
    yield
    thread.join(10)
    assert sessions.none


@pytest.mark.parametrize(
    ("waits", "obeys", "hung_up"),
    [(True, True, False), (False, True, False), (True, False, True), (False, False, True)],
)
def test_only_who_does_not_leave_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch, waits: bool, obeys: bool, hung_up: bool
) -> None:
    monkeypatch.setattr(running, "_ANSWER_SECONDS", 0.2)
    sessions, held = RunningSessions(), Held(waits=waits, obeys=obeys)
    assert sessions.none
    with held_in(sessions, held):
        assert not sessions.none
        sessions.stop(0.2)
        assert held.hung_up is hung_up


def test_nobody_joins_a_site_that_is_being_stopped() -> None:
    sessions, late = RunningSessions(), Held(waits=True, obeys=True)
    sessions.stop(0)
    with (
        pytest.raises(Refused, match="its operator is stopping it"),
        sessions.counted(late, late.hang_up),  # type: ignore[arg-type]
    ):
        pass
    assert sessions.none
