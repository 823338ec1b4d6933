"""Runs: simulated here, or read from their folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hortus.api.plans import PathLike, Plan
from hortus.runtime.metric import Metrics, best
from hortus.simulation.engines.kinds import with_engine

if TYPE_CHECKING:
    from hortus.server.run.names import Place
    from hortus.server.run.records import RoundRecord


@dataclass(frozen=True, slots=True)
class Round:
    """A finished round.

    Attributes:
        number: From 1.
        rounds: How many the plan has.
        sites: Names of the sites in the round's last sum.
        metrics: Measured on the plan's public evaluation records; empty without any.
        epsilon: ε so far of a site that was in every attempt at a sum, as the server claims it; None without
            noise.
    """

    number: int
    rounds: int
    sites: tuple[str, ...]
    metrics: Metrics
    epsilon: float | None

    def __str__(self) -> str:
        spent = "no privacy" if self.epsilon is None else f"ε {self.epsilon:.3f}"
        measured = (f"{metric.label} {metric.text}" for metric in self.metrics)
        return f"round {self.number} of {self.rounds}: {', '.join((*measured, spent))}"


@dataclass(frozen=True, slots=True)
class Run:
    """A run in its folder.

    Attributes:
        directory: The folder, for `audit`, `load` and the commands of `hortus`.
        rounds: The finished rounds.
    """

    directory: Path
    rounds: tuple[Round, ...]

    @classmethod
    def open(cls, directory: PathLike) -> Run:
        """Reads a run, simulated or deployed, finished or not.

        Raises:
            HortusError: There is no run in the folder, or it is damaged.
        """
        from hortus.server.run.records import read_contract, read_run

        folder = Path(directory)
        planned = read_contract(folder).training.rounds
        return cls(folder, tuple(_round(one, planned) for one in read_run(folder).rounds))

    @property
    def metrics(self) -> Metrics:
        """What the last round measured; empty without evaluation records."""
        return self.rounds[-1].metrics if self.rounds else ()

    @property
    def epsilon(self) -> float | None:
        """ε after the last round, as `Round` has it."""
        return self.rounds[-1].epsilon if self.rounds else 0.0

    @property
    def best(self) -> Round | None:
        """The round whose primary metric is best; None without evaluation records."""
        return best(self.rounds, lambda one: one.metrics)


def simulate(
    plan: Plan,
    *,
    out: PathLike | None = None,
    engine: str | None = None,
    on_round: Callable[[Round], object] | None = None,
    report_to: Sequence[str | Mapping[str, Any]] = (),
    force: bool = False,
) -> Run:
    """Runs a plan with virtual sites in this process, with the code of a deployment, or resumes its run.

    Args:
        plan: A plan with a `simulation` section.
        engine: Name of the simulation engine, one of `kinds["simulation engine"].names()`. Default: the plan's
            `simulation.engine`. `rehearsal` runs every message, key, mask and ledger of a deployment; `in-process`
            gives the same bits without them, for thousands of sites.
        out: The run's folder. Default: `runs/NAME` in the plan's folder, or `runs/NAME-2` and so on if the earlier
            ones hold runs of another plan.
        on_round: Called with each round when it is finished, such as `print`.
        report_to: Trackers that each round is reported to: `tensorboard`, `mlflow` or `wandb`, or one with its
            values, such as `{"kind": "mlflow", "uri": "…"}`. They write to the run's folder unless told otherwise.
        force: Start over: remove the run that the folder holds.

    Raises:
        HortusError: The plan or its data cannot be used, or too few virtual sites remain; finished rounds are
            kept.
    """
    from hortus.runtime.surroundings import raise_open_files
    from hortus.server.trackers.reporting import read_trackers, reporting_once_begun
    from hortus.simulation.simulate import simulate as run_plan

    raise_open_files()
    planned, places = plan._inner.training.rounds, list["Place"]()
    folder = None if out is None else Path(out)
    chosen = with_engine(plan._inner, engine)
    with reporting_once_begun(read_trackers(report_to)) as report:

        def tell(record: RoundRecord, _: Mapping[str, float]) -> None:
            if on_round is not None:
                on_round(_round(record, planned))
            report(places[-1].directory, record)

        done = run_plan(chosen, plan._path, folder, tell, force=force, on_place=places.append)
    return Run.open(done.directory)


def _round(record: RoundRecord, planned: int) -> Round:
    return Round(record.round + 1, planned, record.sites, record.metrics, record.epsilon)
