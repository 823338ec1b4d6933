"""Trained models."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from hortus.api.plans import PathLike
from hortus.api.runs import Run
from hortus.runtime.errors import UsageError

if TYPE_CHECKING:
    from hortus.learning.predictor import Model


def load(
    trained: Run | PathLike, *, which: str | int = "last", model: PathLike | None = None
) -> Model:
    """Loads a trained model: base model and adapter.

    Args:
        trained: A run, its folder, or the folder of an adapter.
        which: Of a run, which adapter: that of the `last` round, that of the `best` one by the plan's public
            evaluation, or that of the round with a number. A run keeps its last two rounds and its best one.
        model: Folder of the base model, if it is not where the plan says. Its hash must be the contract's.

    Raises:
        HortusError: There is no such adapter, or its base model is missing or another one.
    """
    from hortus.learning.methods.adapter_files import ABOUT
    from hortus.learning.predictor import load_model

    folder = trained.directory if isinstance(trained, Run) else Path(trained)
    base = None if model is None else Path(model)
    if not (folder / "contract.json").exists():
        if which != "last" and (folder / ABOUT).exists():
            raise UsageError(
                "this is one adapter, not a run with several",
                where=str(folder),
                remedy=f"Name the run's folder to have its round {which!r}.",
            )
        return load_model(folder, base)
    from hortus.server.run.results import export, find_adapter

    if (found := find_adapter(folder, str(which))) is not None:
        return load_model(found, base)
    place = TemporaryDirectory(prefix="hortus-")
    _, adapter = export(folder, str(which), Path(place.name) / "adapter")
    return load_model(adapter, base, near=folder, keeps=place)
