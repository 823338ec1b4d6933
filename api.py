"""The public Python API, which `import hortus` offers; every other module is private and may change.

Nothing heavy is imported before a function needs it: PyTorch, Flower and the accountants take seconds to load.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hortus.planning.plan_file import dump_plan, load_plan, plan_of
from hortus.planning.sections import REGISTRIES
from hortus.protocol.section import Kind
from hortus.runtime.errors import HortusError
from hortus.runtime.files import write_atomic
from hortus.runtime.metric import Metrics, best
from hortus.runtime.registry import Registry, allow_plug_ins
from hortus.strategies.optimizers.kinds import OPTIMIZERS

if TYPE_CHECKING:
    from hortus.learning.predictor import Model
    from hortus.server.run.records import RoundRecord

__all__ = [
    "Audit",
    "Cost",
    "HortusError",
    "Plan",
    "Round",
    "Run",
    "audit",
    "cost",
    "kinds",
    "load",
    "simulate",
]

kinds: Mapping[str, Registry[Any]] = MappingProxyType(
    {registry.noun: registry for registry in (*REGISTRIES, OPTIMIZERS)}
)
"""The kinds that plans can name, by what they are: `kinds["task"].names()`."""

PathLike = str | os.PathLike[str]
Section = Mapping[str, Any] | Kind


class Plan:
    """A plan: what is trained, how privately, and by whom. A plan never changes.

    Every argument but `folder` is a key of a plan file (docs/plan.md). A section is a mapping as in the file, or a
    kind from `hortus.kinds`. Omitted values get their defaults.

    Args:
        name: Name of the run: lower-case letters, digits, `.`, `_` and `-`.
        model: Base model: a folder, or `package:NAME/FOLDER` for one inside an installed package.
        task: What the model learns.
        training: Rounds, sampling rate and the other numbers of the training.
        privacy: The budget or the noise, and the mechanism of every step.
        adapter: Which parameters are trained.
        strategy: What a site computes, and what the server makes of the sum.
        cohort: The smallest cohort, and the deadlines.
        evaluation: File of public records on which the server measures the model.
        simulation: Where the virtual sites of `simulate` get their records.
        seed: Public seed.
        folder: What relative paths are relative to. Default: the current directory.

    Raises:
        HortusError: The plan cannot be used; the error names each wrong key with its value and a remedy.
    """

    __slots__ = ("_folder", "_inner", "_path")

    def __init__(
        self,
        *,
        name: str,
        model: str,
        task: Section,
        training: Mapping[str, Any],
        privacy: Mapping[str, Any],
        adapter: Section | None = None,
        strategy: Section | None = None,
        cohort: Mapping[str, Any] | None = None,
        evaluation: PathLike | None = None,
        simulation: Mapping[str, Any] | None = None,
        seed: int = 0,
        folder: PathLike = ".",
    ) -> None:
        written = {
            "name": name,
            "seed": seed,
            "model": model,
            "task": task,
            "adapter": adapter,
            "strategy": strategy,
            "training": training,
            "privacy": privacy,
            "cohort": cohort,
            "evaluation": evaluation,
            "simulation": simulation,
        }
        fields = {key: _plain(value) for key, value in written.items() if value is not None}
        self._folder = Path(folder).resolve()
        self._path = self._folder / f"{name}.yaml"
        allow_plug_ins(None)  # whoever writes a plan in code has installed its kinds
        self._inner = plan_of(fields, self._folder)

    @classmethod
    def load(cls, path: PathLike, settings: Sequence[str] = ()) -> Plan:
        """Reads a plan file; relative paths in it are relative to its folder.

        Args:
            path: The YAML file.
            settings: Values that replace the file's, each such as `training.rounds=3`.

        Raises:
            HortusError: The file cannot be read, or the plan cannot be used.
        """
        allow_plug_ins(None)
        plan = cls.__new__(cls)
        plan._path = Path(path).resolve()
        plan._folder = plan._path.parent
        plan._inner = load_plan(Path(path), settings)
        return plan

    def save(self, path: PathLike) -> Path:
        """Writes the plan as a file, every value explicit, for the command line and for sites to approve.

        Paths in the file are absolute.
        """
        target = Path(path)
        inner = self._inner
        if not inner.model.startswith("package:"):
            inner = inner.model_copy(update={"model": str(self._folder / inner.model)})
        write_atomic(target, dump_plan(inner))
        return target

    @property
    def name(self) -> str:
        """Name of the run."""
        return self._inner.name

    @property
    def fields(self) -> dict[str, Any]:
        """All values, as JSON has them, defaults included."""
        return self._inner.model_dump(mode="json")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and (self._inner, self._folder) == (
            other._inner,
            other._folder,
        )

    def __hash__(self) -> int:
        return hash((self.name, self._folder))

    def __repr__(self) -> str:
        return f"<hortus.Plan {self.name!r}>"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a plan costs each site, before anything runs.

    Attributes:
        epsilon: ε of the whole plan at `delta`, all spare attempts used; infinite without noise.
        epsilon_unspared: ε if no attempt at a sum fails.
        delta: The plan's δ.
        noise_multiplier: σ/C of a step; None without noise.
        releases: Private steps, those of spare attempts included.
        parameters: Adapter parameters that are trained.
        doubts: Choices in the plan that deserve a second look, a sentence each.
    """

    epsilon: float
    epsilon_unspared: float
    delta: float
    noise_multiplier: float | None
    releases: int
    parameters: int
    doubts: tuple[str, ...]


def cost(plan: Plan, sites: int | None = None) -> Cost:
    """Computes what a plan costs each site, and tries its base model.

    Args:
        plan: The plan.
        sites: Number of sites in a sum. Default: those of the simulation, or the smallest cohort.

    Raises:
        HortusError: The plan or its model cannot be used, or no noise reaches the ε.
    """
    from hortus.simulation.prospect import doubts_about, prospect

    what = prospect(plan._inner, plan._folder, sites)
    privacy = what.contract.privacy
    return Cost(
        epsilon=what.cost.epsilon(privacy.delta),
        epsilon_unspared=what.cost.epsilon_unspared(privacy.delta),
        delta=privacy.delta,
        noise_multiplier=privacy.noise_multiplier,
        releases=what.cost.releases,
        parameters=what.dimension,
        doubts=doubts_about(what, None),
    )


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
    on_round: Callable[[Round], object] | None = None,
    force: bool = False,
) -> Run:
    """Runs a plan with virtual sites in this process, with the code of a deployment, or resumes its run.

    Args:
        plan: A plan with a `simulation` section.
        out: The run's folder. Default: `runs/NAME` in the plan's folder, or `runs/NAME-2` and so on if the earlier
            ones hold runs of another plan.
        on_round: Called with each round when it is finished, such as `print`.
        force: Start over: remove the run that the folder holds.

    Raises:
        HortusError: The plan or its data cannot be used, or too few virtual sites remain; finished rounds are
            kept.
    """
    from hortus.runtime.surroundings import raise_open_files
    from hortus.simulation.simulate import simulate as run_plan

    raise_open_files()
    planned = plan._inner.training.rounds

    def tell(record: RoundRecord, _: Mapping[str, float]) -> None:
        if on_round is not None:
            on_round(_round(record, planned))

    folder = None if out is None else Path(out)
    done = run_plan(plan._inner, plan._path, folder, tell, force=force)
    return Run.open(done.directory)


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


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit has found.

    Attributes:
        holds: Whether everything holds, and was compared with something that the sites do not keep.
        verdict: `holds`, `holds so far` (nothing shows what came later) or `does not hold`.
        sentence: What holds up to where, or the first thing that does not.
        epsilon: By site, the largest ε that any of its datasets has spent; infinite if something was released
            without noise.
        errors: What does not hold, a sentence each.
        warnings: What an auditor should read, a sentence each.
    """

    holds: bool
    verdict: str
    sentence: str
    epsilon: Mapping[str, float]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.verdict}: {self.sentence}"


def audit(
    *paths: PathLike | Run, anchor: PathLike | None = None, roster: PathLike | None = None
) -> Audit:
    """Verifies ledgers, and recomputes every ε with a second accountant.

    Args:
        paths: Evidence bundles, folders of sites, or runs, alone or with those of their sites.
        anchor: An earlier head of a ledger, kept elsewhere.
        roster: Keys to trust instead of those in the evidence.

    Raises:
        HortusError: A path is missing or cannot be audited, or there is no ledger.
    """
    from hortus.privacy.audit.findings import Severity
    from hortus.privacy.audit.totals import account_totals
    from hortus.privacy.audit.verdict import Outcome
    from hortus.server.audit_report import make_report

    places = [path.directory if isinstance(path, Run) else Path(path) for path in paths]
    report = make_report(
        places,
        None if anchor is None else Path(anchor),
        None if roster is None else Path(roster),
        time.time(),
    )
    found = [
        (finding.severity, f"{one.audit.site}: {finding.problem}. {finding.meaning}")
        for one in report.sites
        for finding in one.audit.findings
    ]
    missing = tuple(f"{one.site}: {one.problem}" for one in report.lacking)
    return Audit(
        holds=report.verdict.outcome is Outcome.HOLDS,
        verdict=report.verdict.outcome.value,
        sentence=report.verdict.sentence,
        epsilon={
            one.audit.site: max((total.epsilon for total in account_totals(one.audit)), default=0.0)
            for one in report.sites
        },
        errors=tuple(told for severity, told in found if severity is Severity.BROKEN) + missing,
        warnings=tuple(told for severity, told in found if severity is Severity.WARNING),
    )


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a plan may hold
    """Returns a value as a plan file would have it."""
    if isinstance(value, Kind):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, tuple) else value


def _round(record: RoundRecord, planned: int) -> Round:
    return Round(record.round + 1, planned, record.sites, record.metrics, record.epsilon)
