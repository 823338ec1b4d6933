"""TensorBoard: event files, which `tensorboard --logdir RUN_DIR/tracking/tensorboard` shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from hortus.server.trackers.base import Log, Tracked, Tracker


class TensorBoard(Tracker):
    """`tensorboard`: event files in a folder, and nothing beyond this machine."""

    client: ClassVar[str] = "tensorboard"

    kind: Literal["tensorboard"] = "tensorboard"
    folder: Path | None = Field(
        None, description="Where event files go; none: `tracking/tensorboard` in the run's folder."
    )

    def open(self, tracked: Tracked) -> Log:
        """See `Tracker`."""
        from torch.utils.tensorboard import SummaryWriter

        own = f"{tracked.name}-{tracked.run[:8]}"
        folder = tracked.folder if self.folder is None else self.folder / own
        writer = SummaryWriter(str(folder), purge_step=tracked.next_round)
        if tracked.next_round == 1:
            rows = (f"| {name} | {value} |" for name, value in tracked.parameters.items())
            text = "\n".join(["| key | value |", "| --- | --- |", *rows])
            writer.add_text("plan", text, 0, walltime=0.0)
        return _Log(writer)


class _Log:
    def __init__(self, writer: Any) -> None:  # noqa: ANN401 - PyTorch's, without types
        self._writer = writer

    def add(self, number: int, values: Mapping[str, float]) -> None:
        """Adds scalars; their time is the round's number, since how long a round takes depends on records."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, number, walltime=float(number))
        self._writer.flush()

    def close(self) -> None:
        """See `Log`."""
        self._writer.close()
