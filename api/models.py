"""Trained models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hortus.api.plans import PathLike
from hortus.api.runs import Run
from hortus.runtime.registry import allow_plug_ins

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
    from hortus.learning.predictor import load_model
    from hortus.server.run.results import lend_adapter

    allow_plug_ins(None)  # whoever loads a model has installed its kinds
    folder = trained.directory if isinstance(trained, Run) else Path(trained)
    adapter, place = lend_adapter(folder, str(which))
    return load_model(adapter, None if model is None else Path(model), near=folder, keeps=place)
