"""A run reported to trackers: beside it, never in its way, and whatever they do, it goes to its end."""

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hortus.protocol.plan import Contract
from hortus.runtime.errors import UsageError, in_one_line
from hortus.runtime.files import write_atomic
from hortus.server.run.records import RoundRecord, read_contract, read_run
from hortus.server.trackers.base import Log, Tracked, Tracker
from hortus.server.trackers.kinds import TRACKERS

FOLDER = "tracking"
_STATE = "reported.json"
_FAREWELL_SECONDS = 20.0
logger = logging.getLogger(__name__)


def read_trackers(sections: Sequence[str | Mapping[str, Any]]) -> tuple[Tracker, ...]:
    """Returns the trackers that `report_to` names: a kind, or a kind with its values, each.

    Raises:
        UsageError: There is no such tracker, its values are wrong, or its client is not installed.
    """
    named = ({"kind": one} if isinstance(one, str) else one for one in sections)
    found = tuple(
        TRACKERS.complete(one, place=("report_to", number)) for number, one in enumerate(named)
    )
    for one in found:
        if find_spec(one.client) is None:
            raise UsageError(
                f"the tracker {one.kind!r} needs a package that is not installed here",
                where="report_to",
                remedy=f"pip install 'hortus[{one.kind}]'",
            )
    kinds = [one.kind for one in found]
    if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
        raise UsageError(f"{', '.join(twice)} comes twice", where="report_to")
    return found


@contextmanager
def reporting(
    trackers: Sequence[Tracker],
    run: str,
    contract: Contract,
    directory: Path,
    finished: Sequence[RoundRecord] = (),
) -> Iterator[Callable[[RoundRecord], None]]:
    """Lends what reports a round to a run's trackers, some time soon; at the end it waits for them, but not for long.

    Args:
        trackers: Which; none: nothing happens.
        run: The run's id.
        contract: What is trained.
        directory: The run's folder.
        finished: Rounds finished by earlier starts; those that were not reported are.
    """
    lines = [_Line(tracker, run, contract, directory / FOLDER) for tracker in trackers]

    def report(record: RoundRecord) -> None:
        for line in lines:
            line.tell(record)

    for record in finished:
        report(record)
    try:
        yield report
    finally:
        for line in lines:
            line.close()


@contextmanager
def reporting_once_begun(
    trackers: Sequence[Tracker],
) -> Iterator[Callable[[Path, RoundRecord], None]]:
    """Lends what reports a round of the run in a folder, for a caller that has no store of it yet."""
    known: dict[Path, Callable[[RoundRecord], None]] = {}
    with ExitStack() as stack:

        def report(directory: Path, record: RoundRecord) -> None:
            if directory in known:
                known[directory](record)
            elif trackers:
                rows, contract = read_run(directory), read_contract(directory)
                opened = reporting(trackers, rows.run, contract, directory, rows.rounds)
                known[directory] = stack.enter_context(opened)

        yield report


class _Line:
    """A tracker with a thread of its own, so that one that hangs keeps nobody waiting."""

    def __init__(self, tracker: Tracker, run: str, contract: Contract, folder: Path) -> None:
        self._tracker = tracker
        self._state = folder / f"{tracker.kind}-{_STATE}"
        self._done = _reported(self._state, run)
        self._tracked = Tracked(
            run, contract.name, _parameters(contract), folder / tracker.kind, self._done + 1
        )
        self._log: Log | None = None
        self._is_well = True
        self._waiting: queue.SimpleQueue[RoundRecord | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=tracker.kind, daemon=True)
        self._thread.start()

    def tell(self, record: RoundRecord) -> None:
        """Has a round reported, unless it was before."""
        self._waiting.put(record)

    def close(self) -> None:
        """Waits until all is reported, but not for long."""
        self._waiting.put(None)
        self._thread.join(_FAREWELL_SECONDS)
        if self._thread.is_alive():
            logger.warning("%s does not answer, and is left behind", self._tracker.kind)

    def _work(self) -> None:
        missing: list[RoundRecord] = []
        while (record := self._waiting.get()) is not None:
            if record.round >= self._done:
                missing.append(record)
            with self._complaining():
                while missing:
                    self._add(missing[0])
                    del missing[0]
        if self._log is not None:
            with self._complaining():
                self._log.close()

    def _add(self, record: RoundRecord) -> None:
        if self._log is None:
            self._log = self._tracker.open(self._tracked)
        self._log.add(record.round + 1, _numbers(record))
        self._done = record.round + 1
        state = {"run": self._tracked.run, "rounds": self._done}
        write_atomic(self._state, json.dumps(state).encode())
        self._is_well = True

    @contextmanager
    def _complaining(self) -> Iterator[None]:
        """Says of whatever goes wrong that it did, once until it is well again."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a tracker ends no run
            if self._is_well:
                reason = in_one_line(f"{type(error).__name__}: {error}", 300)
                logger.warning("%s fails, and the run continues: %s", self._tracker.kind, reason)
            self._is_well = False


def _numbers(record: RoundRecord) -> dict[str, float]:
    """Returns what is reported of a round: what is public, and finite."""
    found = {metric.name: metric.value for metric in record.metrics if metric.value is not None} | {
        "sites": float(len(record.sites)),
        "secure_sum_attempts": float(record.attempts),
    }
    if record.epsilon is not None:
        found["epsilon"] = record.epsilon
    if record.noise_to_signal is not None:
        found["noise_to_signal"] = record.noise_to_signal
    return found


def _parameters(contract: Contract) -> dict[str, str]:
    """Returns a contract's values by dotted name, and its hash."""
    flat: dict[str, str] = {"contract": contract.digest()}

    def walk(value: Any, name: str) -> None:  # noqa: ANN401 - as JSON has it
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}" if name else str(key))
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    walk(contract.model_dump(mode="json"), "")
    return flat


def _reported(state: Path, run: str) -> int:
    """Returns how many rounds of a run an earlier start has reported."""
    try:
        known = json.loads(state.read_bytes())
        return int(known["rounds"]) if known["run"] == run else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0
