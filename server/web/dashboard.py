"""`hortus dashboard RUN_DIR`: a run in the browser, while it is active and afterwards.

Everything is read from the run's folder; `pages.live` serves it.
"""

import shlex
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hortus.pages.live import PROBLEM, Shown
from hortus.pages.plots import Plot, describe, svg
from hortus.pages.templates import templates
from hortus.server.run.attendance import at
from hortus.server.run.view import (
    RunView,
    State,
    epsilon_plot,
    metric_plot,
    read_view,
    signature,
)


class RunSource:
    """A run's folder, as a page is read from it.

    Args:
        directory: The folder.

    Raises:
        UsageError: There is no run in it.
        HortusError: It cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._templates = templates("hortus.server.web")
        self._view = read_view(directory)

    def signature(self) -> Hashable:
        """See `Source`."""
        return signature(self._directory)

    def show(self) -> Shown:
        """See `Source`."""
        self._view = view = read_view(self._directory)
        run: Any = self._templates.get_template("run.html").module
        planned = view.contract.training.rounds
        evaluation, epsilon = (_drawn(plot(view, planned)) for plot in (metric_plot, epsilon_plot))
        parts = {
            "plots": run.plots(view, evaluation, epsilon),
            "changed": at(view.changed),
            "site-rows": run.site_rows(view),
            "away-rows": run.away_rows(view),
            "round-columns": run.round_columns(view),
            "round-rows": run.round_rows(view, newest_first=True),
        }
        parts |= {
            name: getattr(run, name)(view) for name in ("state", "lead", "now", "failure", "tiles")
        }
        return Shown(
            title=f"{len(view.rounds)}/{planned} {view.contract.name}, Hortus",
            said=_news(view),
            parts={PROBLEM: "", **{name: str(part).strip() for name, part in parts.items()}},
        )

    def page(self, shown: Shown) -> str:
        """See `Source`."""
        return self._templates.get_template("dashboard.html").render(
            view=self._view,
            title=shown.title,
            parts=shown.parts,
            digest=self._view.contract.digest(),
            audit=f"hortus audit {shlex.quote(str(self._directory))}",
        )


def _drawn(plot: Plot) -> tuple[Markup, str]:
    return svg(plot), describe(plot)


def _news(view: RunView) -> str:
    if view.state is State.STOPPED:
        return f"The run has stopped. {view.failure}"
    if view.state is State.SILENT:
        return "No server is working on the run."
    if view.last is None:
        return "The run waits for its sites."
    done = f"{view.last.round + 1} of {view.contract.training.rounds} rounds are done."
    if (reached := view.last.primary) is not None:
        done += f" {reached.title} {reached.text}."
    return f"The run is finished: {done}" if view.state is State.FINISHED else done
