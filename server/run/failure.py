"""Why a run ended before its time, kept in its folder: the round loop runs in another process."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from hortus.runtime.errors import CohortTooSmall, HortusError, UsageError
from hortus.runtime.files import write_atomic
from hortus.runtime.schema import Schema

FAILURE = "failure.json"


def write_failure(directory: Path, error: HortusError) -> None:
    """Keeps an error in a run's folder."""
    told = {"exit_code": error.exit_code, "problem": error.problem, "where": error.where}
    write_atomic(directory / FAILURE, json.dumps(told | {"remedy": error.remedy}).encode())


class _Told(Schema):
    exit_code: int
    problem: str
    where: str | None
    remedy: str | None


def read_failure(directory: Path) -> HortusError | None:
    """Returns the error that ended the run; None if none did.

    Raises:
        HortusError: The file is damaged.
    """
    path = directory / FAILURE
    try:
        told = _Told.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise HortusError("this is not a record of a failure", where=str(path)) from error
    kinds = {kind.exit_code: kind for kind in (UsageError, CohortTooSmall)}
    kind = kinds.get(told.exit_code, HortusError)
    return kind(told.problem, where=told.where, remedy=told.remedy)


def forget_failure(directory: Path) -> None:
    """Removes the error of an earlier start."""
    (directory / FAILURE).unlink(missing_ok=True)


@contextmanager
def stopping(directory: Path, on_stop: Callable[[], None]) -> Iterator[None]:
    """Keeps why a run ended before its time, whatever the reason, and then calls `on_stop`."""
    forget_failure(directory)
    try:
        yield
    except BaseException as error:
        with suppress(HortusError):  # the disk may be full, which `error` says
            write_failure(directory, _as_told(error))
        on_stop()
        raise


def _as_told(error: BaseException) -> HortusError:
    if isinstance(error, HortusError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return HortusError("it was interrupted")
    return HortusError(f"an unexpected {type(error).__name__} ended it")
