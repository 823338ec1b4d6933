"""Why a run ended is kept for whoever looks later, with its exit code, and forgotten at the next start."""

from pathlib import Path

import pytest

from hortus.runtime.errors import CohortTooSmall, HortusError, UsageError
from hortus.server.run.failure import FAILURE, forget_failure, read_failure, stopping, write_failure

ERRORS = [
    HortusError("it failed", where="here", remedy="Try again."),
    HortusError("it failed"),
    UsageError("the plan is wrong", where="plan.yaml: rounds"),
    CohortTooSmall("1 of 3 sites would take part", remedy="Wait."),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_reads_back_with_its_kind(tmp_path: Path, error: HortusError) -> None:
    assert read_failure(tmp_path) is None
    write_failure(tmp_path, error)
    found = read_failure(tmp_path)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert found is not None
    assert found.exit_code == error.exit_code
    forget_failure(tmp_path)
    forget_failure(tmp_path)
    assert read_failure(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"exit_code": "one"}', b"\xff"])
def test_a_damaged_record_of_it_is_said_to_be_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FAILURE).write_bytes(content)
    with pytest.raises(HortusError, match="not a record of a failure") as caught:
        read_failure(tmp_path)
    assert caught.value.where == str(tmp_path / FAILURE)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UsageError("the plan is wrong"), "the plan is wrong"),
        (KeyboardInterrupt(), "it was interrupted"),
        (ZeroDivisionError("a record: 7"), "an unexpected ZeroDivisionError ended it"),
    ],
)
def test_whatever_ends_a_run_is_kept_before_anybody_is_called(
    tmp_path: Path, error: BaseException, said: str
) -> None:
    write_failure(tmp_path, ERRORS[0])
    seen: list[str] = []

    def run() -> None:
        with stopping(tmp_path, lambda: seen.append(str(read_failure(tmp_path)))):
            assert read_failure(tmp_path) is None, "that of an earlier start"
            raise error

    with pytest.raises(type(error)):
        run()
    (line,) = seen
    assert said in line
    assert "a record: 7" not in line, "an unexpected error may quote one"


def test_a_run_that_ends_well_leaves_nothing(tmp_path: Path) -> None:
    with stopping(tmp_path, lambda: pytest.fail("it did not stop early")):
        pass
    assert read_failure(tmp_path) is None
