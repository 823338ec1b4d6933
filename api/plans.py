"""Plans, and what they cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hortus.planning.plan_file import dump_plan, load_plan, plan_of
from hortus.protocol.section import Kind
from hortus.runtime.files import write_atomic
from hortus.runtime.registry import allow_plug_ins
from hortus.simulation.engines.kinds import engine_of

PathLike = str | os.PathLike[str]
SectionLike = Mapping[str, Any] | Kind


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
        simulation: Where the virtual sites of `simulate` get their records, and which engine brings them together.
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
        task: SectionLike,
        training: Mapping[str, Any],
        privacy: Mapping[str, Any],
        adapter: SectionLike | None = None,
        strategy: SectionLike | None = None,
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
        engine_of(self._inner)

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
        engine_of(plan._inner)
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


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a plan may hold
    """Returns a value as a plan file would have it."""
    if isinstance(value, Kind):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, tuple) else value
