"""Trained models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hortus.api.plans import PathLike
from hortus.api.runs import Run

if TYPE_CHECKING:
    from hortus.learning.predictor import Model


def load(trained: Run | PathLike, *, model: PathLike | None = None) -> Model:
    """Loads a trained model: base model and adapter.

    Args:
        trained: A run, its folder, or the folder of an adapter. Of a run it is the adapter after the last round.
        model: Folder of the base model, if it is not where the plan says. Its hash must be the contract's.

    Raises:
        HortusError: There is no adapter, or its base model is missing or another one.
    """
    from hortus.learning.predictor import load_model

    folder = trained.directory if isinstance(trained, Run) else Path(trained)
    inner = folder / "adapter"
    return load_model(inner if inner.is_dir() else folder, None if model is None else Path(model))
