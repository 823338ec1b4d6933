"""What a run has so far, written and exported: the adapters of its last and of its best round.

They are written after each round, from the checkpoints, so that a run that stops at whatever moment and for
whatever reason leaves them. Best is the round whose primary metric is best on the plan's public
evaluation records, which costs no ε.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import safetensors
import safetensors.torch
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from hortus.learning.methods.adapter_files import write_adapter
from hortus.learning.methods.base import ABOUT
from hortus.runtime.errors import UsageError
from hortus.server.run import checkpoints
from hortus.server.run.records import (
    RoundRecord,
    RunRows,
    best_round,
    read_contract,
    read_run,
)

LAST, BEST = "adapter", "adapter-best"


def template_path(directory: Path) -> Path:
    """Where a run keeps what an adapter's folder is filled in from."""
    return directory / "layout"


def write_results(directory: Path) -> None:
    """Writes the adapters of a run's last and best round into its folder.

    Raises:
        HortusError: A checkpoint is missing or damaged, or the folder cannot be written.
    """
    rows = read_run(directory)
    if not rows.rounds:
        return
    best = best_round(rows.rounds)
    if best is not None and _saved_round(directory / BEST) != best.round:
        _write(directory, rows, best, directory / BEST)
    _write(directory, rows, rows.rounds[-1], directory / LAST)  # the last thing of a round


def export(directory: Path, which: str, out: Path | None) -> tuple[RoundRecord, Path]:
    """Writes the adapter of one round of a run, finished or not, also while it runs.

    Args:
        directory: The run's folder.
        which: `last`, `best`, or a round's number from 1.
        out: The new folder; None: `adapter-round-N` in the run's own.

    Returns:
        The round, and the folder.

    Raises:
        UsageError: There is no run, no such round, or its checkpoint is not kept; or `out` exists.
        HortusError: The checkpoint is damaged, or the folder cannot be written.
    """
    read_contract(directory)
    if out is not None and out.exists():
        raise UsageError("this exists already", where=str(out), remedy="Choose another folder.")
    rows = read_run(directory)
    record = _chosen(directory, rows.rounds, which)
    folder = out or directory / f"{LAST}-round-{record.round + 1}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    _write(directory, rows, record, folder)
    return record, folder


def lend_adapter(trained: Path, which: str) -> tuple[Path, TemporaryDirectory[str] | None]:
    """Finds the folder of a trained adapter.

    Args:
        trained: A run's folder, or an adapter's.
        which: Of a run, `last`, `best`, or a round's number from 1.

    Returns:
        The folder; and, where the run keeps only a checkpoint of that round, the temporary one that it is in, which
        the caller holds on to.

    Raises:
        UsageError: There is no run and no adapter, or no such round.
        HortusError: The checkpoint is damaged.
    """
    if (trained / ABOUT).is_file():
        if which != "last":
            raise UsageError(
                "this is one adapter, not a run with several",
                where=str(trained),
                remedy=f"Name the folder of its run to choose {which!r}.",
            )
        return trained, None
    try:
        read_contract(trained)
    except UsageError as error:
        raise UsageError(
            "there is no run in this folder, and no adapter",
            where=str(trained),
            remedy=error.remedy,
        ) from None
    record = _chosen(trained, read_run(trained).rounds, which)
    for folder in (trained / LAST, trained / BEST):
        if _saved_round(folder) == record.round:
            return folder, None
    place = TemporaryDirectory(prefix="hortus-")
    return export(trained, str(record.round + 1), Path(place.name) / LAST)[1], place


def is_complete(directory: Path, rounds: int) -> bool:
    """Whether the adapter of the last of this many rounds is in a run's folder."""
    return _saved_round(directory / LAST) == rounds - 1


class _About(BaseModel):
    round: int


def _saved_round(adapter: Path) -> int | None:
    """The round, from 0, that an adapter's folder is of; None if the folder does not say."""
    try:
        return _About.model_validate_json((adapter / ABOUT).read_bytes()).round - 1
    except (OSError, ValidationError):
        return None


def _chosen(directory: Path, rounds: Sequence[RoundRecord], which: str) -> RoundRecord:
    if not rounds:
        raise UsageError("no round of this run has finished yet", where=str(directory))
    kept = [record for record in rounds if checkpoints.of_round(directory, record.round).exists()]
    if which == "last":
        return rounds[-1]
    if which == "best":
        return _best(rounds)
    for record in kept:
        if which == str(record.round + 1):
            return record
    numbers = ", ".join(str(record.round + 1) for record in kept)
    raise UsageError(
        f"no checkpoint of round {which!r} is kept",
        where="--which",
        remedy=f"Checkpoints of rounds {numbers} are kept: the last two and the best. Name one of these, "
        "`last` or `best`.",
    )


def _best(rounds: Sequence[RoundRecord]) -> RoundRecord:
    best, metric = best_round(rounds), rounds[-1].primary
    if best is not None:
        return best
    if metric is not None:
        raise UsageError(
            f"no round can be called the best: {metric.label} was not finite after any of them",
            where="--which best",
            remedy="Take --which last, or train with a smaller learning rate.",
        )
    raise UsageError(
        "no round can be called the best: the plan names no evaluation records",
        where="--which best",
        remedy="Take --which last, or set `evaluation` in the plan of another run.",
    )


def _write(directory: Path, rows: RunRows, record: RoundRecord, out: Path) -> None:
    contract = read_contract(directory)
    about = {
        "run": rows.run,
        "plan": contract.name,
        "contract": contract.digest(),
        "terms": contract.model_dump(mode="json"),
        "round": record.round + 1,
        "rounds": contract.training.rounds,
        "epsilon": record.epsilon,
        "delta": contract.privacy.delta,
        "metrics": [asdict(metric) for metric in record.metrics],
    }
    vector = _vector(directory, rows, record)
    encoded = (json.dumps(about, indent=2) + "\n").encode()
    write_adapter(out, template_path(directory), vector, encoded)


def _vector(directory: Path, rows: RunRows, record: RoundRecord) -> NDArray[np.float32]:
    """Returns the adapter of a round, float32[d], from its checkpoint."""
    path = checkpoints.of_round(directory, record.round)
    encoded = checkpoints.read(path, rows.checkpoints[record.round])
    vector: NDArray[np.float32] = safetensors.torch.load(encoded)["adapter"].numpy()
    return vector
