"""Weights & Biases: a run in files, which `wandb sync` uploads; or at once, where the operator says so and has a key."""

from __future__ import annotations

import logging
import netrc
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar, Literal

from pydantic import Field

from hortus.server.trackers.base import Log, Tracked, Tracker

_HOST = "api.wandb.ai"
logger = logging.getLogger(__name__)


class WandB(Tracker):
    """`wandb`: a run of a project, without what the client would say of the machine and of the process."""

    client: ClassVar[str] = "wandb"

    kind: Literal["wandb"] = "wandb"
    project: str = Field("hortus", min_length=1, description="Name of the project.")
    online: bool = Field(
        False,
        description="Whether it is sent to the service at once; it needs a key (WANDB_API_KEY).",
    )

    def open(self, tracked: Tracked) -> Log:
        """See `Tracker`."""
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        import wandb

        is_online = self.online and _has_key()
        if self.online and not is_online:
            logger.warning("wandb: there is no key, so the run is kept in %s", tracked.folder)
        tracked.folder.mkdir(parents=True, exist_ok=True)
        # What a process computes grows with the records that were drawn, so nothing is said of it.
        quiet = wandb.Settings(
            silent=True,
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        run = wandb.init(
            project=self.project,
            name=tracked.name,
            id=tracked.run,
            resume="allow",
            mode="online" if is_online else "offline",
            dir=str(tracked.folder),
            config=dict(tracked.parameters),
            settings=quiet,
        )
        return _Log(run)


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    with suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc().authenticators(_HOST) is not None
    return False


class _Log:
    def __init__(self, run: Any) -> None:  # noqa: ANN401 - it has no types
        self._run = run

    def add(self, number: int, values: Mapping[str, float]) -> None:
        """See `Log`."""
        self._run.log(dict(values), step=number)

    def close(self) -> None:
        """See `Log`."""
        self._run.finish(quiet=True)
