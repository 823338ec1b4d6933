"""A run's folder, which holds one run at a time: of one plan, one model and the same files at every start."""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hortus.planning.plan_file import dump_plan, files_of, load_plan
from hortus.protocol.plan import Contract, Plan
from hortus.runtime.databases import DAMAGED, read_snapshot
from hortus.runtime.errors import HortusError, UsageError
from hortus.runtime.files import write_atomic
from hortus.server.run.accounts import ACCOUNTS
from hortus.server.run.attendance import ATTENDANCE, attended
from hortus.server.run.records import read_contract
from hortus.server.run.store import RunStore

_PLAN, _INPUTS = "plan.yaml", "inputs.json"
_VIRTUAL = "consortium"  # the parties of a simulation
# All that a run writes into its folder; whatever else lies there is somebody else's.
_OWN = (
    *("run.sqlite", "run.sqlite-wal", "run.sqlite-shm", "contract.json", _PLAN, _INPUTS),
    *("checkpoints", "layout", "adapter", "adapter-best", "metrics.jsonl", "failure.json"),
    *("report.html", "records", _VIRTUAL, ACCOUNTS, "flower", ATTENDANCE, "tracking"),
)
_SHOWN = 6
_CHARACTERS = 60


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Makes a run's folder and holds it: a second start on it is refused.

    Raises:
        InUse: Another process runs in it.
        UsageError: It cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"this folder cannot be made: {error.strerror}", where=str(directory)
        ) from error
    with attended(directory):
        yield


def open_run(
    plan: Plan,
    plan_path: Path,
    contract: Contract,
    directory: Path,
    *,
    simulated: bool,
    force: bool,
) -> RunStore:
    """Opens the run of a plan in a folder that the caller has claimed, or starts it.

    A start that completed no sum does not stand in the way of another plan.

    Args:
        plan: The plan.
        plan_path: Its file, which is left as it is, wherever it lies.
        contract: Its binding part.
        directory: The run's folder.
        simulated: Whether the sites are virtual.
        force: Remove a run that is there, and begin again.

    Raises:
        UsageError: The folder holds a run of another plan or model, or of files that have changed since;
            the error names them.
        HortusError: The folder cannot be read or written.
    """
    if _is_same(directory / _PLAN, plan_path) and load_plan(plan_path) != plan:
        raise UsageError(
            "this file defines the run in its folder, so --set cannot change it",
            where=str(plan_path),
            remedy="Copy the file, or choose another folder with --out.",
        )
    inputs = input_digests(plan)
    changes = [] if force else differences(plan, contract, inputs, directory, simulated=simulated)
    if changes and has_begun(directory):
        raise _another(changes, directory)
    if force or changes:
        _clear(directory, plan_path)
    store = RunStore(directory, contract)
    write_atomic(directory / _INPUTS, json.dumps(inputs, indent=2).encode())
    if not _is_same(directory / _PLAN, plan_path):
        write_atomic(directory / _PLAN, dump_plan(plan))
    return store


def _another(changes: Sequence[str], directory: Path) -> UsageError:
    lines = [
        *changes[:_SHOWN],
        *([f"… and {len(changes) - _SHOWN} more"] * (len(changes) > _SHOWN)),
    ]
    return UsageError(
        "this folder holds another run:\n" + "\n".join(lines),
        where=str(directory),
        remedy="Choose another folder with --out, or start over in this one with --force.",
    )


def input_digests(plan: Plan) -> dict[str, str]:
    """Returns the SHA-256 of each file that exists; whoever needs a missing one reports it."""
    found = {field: _digest(path) for field, path in files_of(plan).items()}
    return {field: digest for field, digest in found.items() if digest}


def _digest(path: Path) -> str:
    """Returns the SHA-256 of a file, or of the files of a folder with their names; or nothing."""
    try:
        if not path.is_dir():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        total = hashlib.sha256()
        for one in sorted(inner for inner in path.rglob("*") if inner.is_file()):
            total.update(f"{one.relative_to(path)}\0{_digest(one)}\0".encode())
        return total.hexdigest()
    except OSError:
        return ""


def differences(
    plan: Plan, contract: Contract, inputs: Mapping[str, str], directory: Path, *, simulated: bool
) -> list[str]:
    """Returns how a run would differ from the one in a folder, a line for each difference.

    Empty if the folder holds no run.

    Args:
        plan: The plan.
        contract: Its binding part.
        inputs: `input_digests` of the plan: large files are read once, for however many folders.
        directory: The folder.
        simulated: Whether the sites are virtual.

    Raises:
        HortusError: What is in the folder cannot be read.
    """
    if not (directory / "contract.json").exists():
        return []
    before, known = read_contract(directory), _known_inputs(directory)
    found = []
    virtual = (directory / _VIRTUAL).is_dir() or (directory / ACCOUNTS).exists()
    if has_begun(directory) and virtual != simulated:
        found.append("its sites are real" if simulated else "it is a simulation")
    found += [
        f"{field}: {path} has changed since"
        for field, path in files_of(plan).items()
        if field in inputs and known.get(field, inputs[field]) != inputs[field]
    ]
    if before.model_digest != contract.model_digest and before.model == contract.model:
        found.append(f"model: the files of {contract.model} have changed since")
    with suppress(UsageError):  # it was removed: the contract is compared all the same
        found += _compared(comparable(load_plan(directory / _PLAN)), comparable(plan))
    if not found and before.digest() != contract.digest():
        found += _compared(
            _flat(before.model_dump(mode="json")), _flat(contract.model_dump(mode="json"))
        )
    return found


def _compared(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for field in dict.fromkeys((*before, *now)):
        if before.get(field) != now.get(field):
            yield f"{field}: was {_shown(before.get(field))}, is {_shown(now.get(field))}"


def _known_inputs(directory: Path) -> dict[str, str]:
    try:
        known = json.loads((directory / _INPUTS).read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def comparable(plan: Plan) -> dict[str, Any]:
    """Returns a plan's fields by their dotted names, without where files lie and how bytes travel."""
    fields = _flat(plan.model_dump(mode="json", exclude_none=True))
    named = files_of(plan).keys()
    return {
        field: "a file" if field in named else value
        for field, value in fields.items()
        if field != "simulation.engine.transport"
    }


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _shown(value: object) -> str:
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "…"


def has_begun(directory: Path) -> bool:
    """Whether any sum of the run was tried, so that sites may have paid for it."""
    path = directory / "run.sqlite"
    if not path.exists():
        return False

    def tried(connection: sqlite3.Connection) -> bool:
        (found,) = connection.execute("SELECT EXISTS (SELECT 1 FROM attempts)").fetchone()
        return bool(found)

    try:
        return read_snapshot(path, tried)
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return False
        raise HortusError(f"the run cannot be read: {error}", where=str(path)) from error
    except (*DAMAGED, OSError) as error:
        raise HortusError(f"the run cannot be read: {error}", where=str(path)) from error


def _clear(directory: Path, plan_path: Path) -> None:
    """Removes what a run has written, and nothing else."""
    for name in _OWN:
        path = directory / name
        if _is_same(path, plan_path):
            continue
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise HortusError(f"it cannot be removed: {error.strerror}", where=str(path)) from error


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)
