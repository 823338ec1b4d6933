"""Names of runs: one for each plan, model and set of files, found again by whoever starts the same."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from hortus.protocol.plan import Contract, Plan
from hortus.runtime.errors import HortusError
from hortus.server.run.attendance import InUse
from hortus.server.run.folder import claimed, differences, has_begun, input_digests


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run goes.

    Attributes:
        directory: Its folder.
        other: The last folder of the same name that holds another run, if there is one.
        differences: How that run differs, a line for each thing.
    """

    directory: Path
    other: Path | None = None
    differences: tuple[str, ...] = ()


@contextmanager
def named(plan: Plan, contract: Contract, runs: Path) -> Iterator[Place]:
    """Claims the folder of a plan's simulation within `runs`: NAME, NAME-2, NAME-3 and so on.

    It is the one that holds a run of the same plan, model and files, finished or not; else the first where
    no run has begun and nobody is at work.

    Raises:
        InUse: Another process is at work on the same run.
        HortusError: The folder cannot be made.
    """
    others: dict[Path, tuple[str, ...]] = {}
    existing = _existing(runs, plan.name)
    inputs = input_digests(plan) if existing else {}
    for directory in existing:
        found = _differences(plan, contract, inputs, directory)
        if not found:
            with claimed(directory):
                yield Place(directory)
            return
        if _has_begun(directory):
            others[directory] = found
    last = next(reversed(others), None)
    for number in count(1):
        directory = _directory(runs, plan.name, number)
        if directory in others:
            continue
        with ExitStack() as stack:
            try:
                stack.enter_context(claimed(directory))
            except InUse:
                continue
            yield Place(directory) if last is None else Place(directory, last, others[last])
            return


def _directory(runs: Path, name: str, number: int) -> Path:
    return runs / (name if number == 1 else f"{name}-{number}")


def _existing(runs: Path, name: str) -> list[Path]:
    """Returns the folders of that name with a run in them, by number."""
    ends = (path.name.removeprefix(f"{name}-") for path in runs.glob(f"{name}-*"))
    numbers = sorted({1, *(int(end) for end in ends if end.isascii() and end.isdigit())})
    folders = [_directory(runs, name, number) for number in numbers]
    return [folder for folder in folders if (folder / "contract.json").exists()]


def _differences(
    plan: Plan, contract: Contract, inputs: Mapping[str, str], directory: Path
) -> tuple[str, ...]:
    try:
        return tuple(differences(plan, contract, inputs, directory, simulated=True))
    except HortusError as error:
        return (error.problem,)


def _has_begun(directory: Path) -> bool:
    try:
        return has_begun(directory)
    except HortusError:
        return True  # something has, which cannot be read
