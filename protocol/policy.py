"""A site's policy: what it allows, whatever a server or a plan asks."""

import math
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, model_validator

from hortus.protocol.numbers import Deadline, Delta, Fraction, Positive
from hortus.protocol.plan import Precision
from hortus.protocol.privacy import RECORD, Noise
from hortus.runtime.files import write_atomic
from hortus.runtime.schema import Schema, SchemaFile

_LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
PlanHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Every(StrEnum):
    """A calendar period, in UTC."""

    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


def period_of(time: float, every: Every) -> str:
    """Returns the label of the calendar period, in UTC, that a time from 1970 to 9999 falls in."""
    moment = datetime.fromtimestamp(min(_LATEST, max(0.0, time)), UTC)
    if every is Every.YEAR:
        return f"{moment:%Y}"
    if every is Every.QUARTER:
        return f"{moment:%Y}-Q{(moment.month + 2) // 3}"
    return f"{moment:%Y-%m}"


class PeriodBudget(Schema):
    """What the releases of one calendar period may cost together."""

    epsilon: float = Field(gt=0, allow_inf_nan=False, description="Largest ε of a period.")
    every: Every = Field(Every.YEAR, description="`month`, `quarter` or `year`, in UTC.")


class Budget(Schema):
    """What all releases from one dataset, whatever it becomes, may cost together: (ε, δ)-differential privacy."""

    epsilon: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="Largest ε over all plans, for ever; `hortus budget grant` adds to it.",
    )
    delta: Delta = Field(description="The δ at which every ε is computed, 0.01 at most.")
    per_plan: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Largest ε of one plan."
    )
    per_period: PeriodBudget | None = Field(
        None, description="Largest ε of one calendar period; none if absent."
    )
    unit: str = Field(
        RECORD,
        min_length=1,
        max_length=200,
        description="Whom it protects, as in a plan's `privacy.unit`; plans with another unit are "
        "refused, since their losses cannot be added up.",
    )


class AutoApprove(Schema):
    """Plans that this site takes part in although nobody here has read them: all of it must hold."""

    max_epsilon: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="Largest ε of one plan at the budget's δ, as this site computes it; it also caps "
        "what the plan's repeated attempts may cost.",
    )
    models: tuple[PlanHash, ...] = Field(
        min_length=1, description="Hashes of the base models allowed; `hortus plan show` prints it."
    )
    tasks: tuple[PlanHash, ...] = Field(
        min_length=1,
        description="Hashes of the whole `task` sections allowed; `hortus plan show` prints it. Who "
        "could name other columns and labels would learn from a refusal whether the records have them.",
    )
    max_rounds: int = Field(ge=1, description="Most rounds of a plan.")
    min_cohort: int = Field(ge=2, description="Fewest sites that a plan may sum over.")
    max_steps_per_round: int = Field(
        100, ge=1, description="Most private steps of a round, all local steps counted."
    )
    max_sampling_rate: Fraction = Field(
        0.5, description="Largest q: the share of the records that a step computes with."
    )
    noise: tuple[Literal[Noise.DISTRIBUTED, Noise.LOCAL], ...] = Field(
        (Noise.DISTRIBUTED, Noise.LOCAL),
        min_length=1,
        description="Noise modes allowed; a site that trusts nobody allows `local` alone.",
    )
    strategies: tuple[str, ...] = Field(
        ("fedsgd",), min_length=1, description="Kinds of strategy allowed."
    )
    local_optimizers: tuple[str, ...] = Field(
        ("SGD", "Adam"),
        description="Kinds of optimizer that a strategy may step with at this site, as `fedavg` does.",
    )
    local_options: tuple[str, ...] = Field(
        ("momentum", "weight_decay", "nesterov", "betas", "eps"),
        description="Options that it may give them.",
    )
    adapters: tuple[str, ...] = Field(
        ("lora", "head"), min_length=1, description="Kinds of adapter allowed."
    )
    ceilings: dict[str, Positive] = Field(
        default_factory=dict,
        description="Largest values of single fields of a plan's kinds, by their place, such as `adapter.rank: 32`, "
        "instead of each kind's own: 64 for LoRA's rank.",
    )
    max_parameters: int = Field(
        10_000_000,
        ge=1,
        description="Most parameters that are trained: memory, and bytes on the wire.",
    )
    max_micro_batch: int = Field(
        128, ge=1, description="Most records that go through the model together: memory."
    )
    precisions: tuple[Precision, ...] = Field(
        (Precision.FLOAT32,), min_length=1, description="What the base model may compute in."
    )
    max_deadline: Deadline = Field(
        3600.0,
        description="Longest deadline, in seconds, of joining and of a step: how long a server that does "
        "not answer can hold this site up.",
    )
    max_plans: int = Field(
        20,
        ge=1,
        description="Most plans that the site keeps unread, in `plans/`, of 1 MiB at most each. None is "
        "ever dropped, since an audit needs what was charged: further ones are refused. One that is approved "
        "no longer counts.",
    )


class Policy(SchemaFile):
    """policy.yaml, which only the site's operator writes."""

    budget: Budget
    min_cohort: int = Field(3, ge=2, description="Fewest sites that a sum may be made of.")
    min_honest: int = Field(
        2,
        ge=1,
        description="Fewest sites that a plan may count on not to conspire with the server.",
    )
    max_honest_share: Fraction = Field(
        0.67,
        description="Largest share of the smallest sum's sites, this one among them, whose noise a plan "
        "with `noise: distributed` may count on; rounded down, and never below this site itself. If more "
        "sites than the rest tell the server their noise, what the others released is worth less than its ε.",
    )
    max_honest: int | None = Field(
        None, ge=1, description="Most of those sites, whatever their share; no limit if absent."
    )
    auto_approve: AutoApprove | None = Field(
        None, description="Take part also in plans that nobody here has read, within these limits."
    )
    plug_ins: tuple[str, ...] = Field(
        (),
        description="Packages of third parties whose tasks, adapters and other kinds may be loaded here, by their names "
        "for pip. Their code runs with this site's records and keys.",
    )
    unsafe_seeded_noise: bool = Field(
        False, description="Repeatable noise, for tests: whoever knows the seed can subtract it."
    )
    unsafe_no_privacy: bool = Field(False, description="Take part in plans that add no noise.")

    @model_validator(mode="after")
    def _honest_sites_are_sites(self) -> Self:
        if self.min_honest > self.min_cohort:
            raise ValueError(
                f"min_honest: {self.min_honest} is more than min_cohort: {self.min_cohort}"
            )
        if self.max_honest is not None and self.min_honest > self.max_honest:
            raise ValueError(
                f"min_honest: {self.min_honest} is more than max_honest: {self.max_honest}"
            )
        return self

    def most_honest(self, sites: int) -> int:
        """Returns how many of so many sites of a sum a plan may take to be honest, this one included."""
        share = math.floor(self.max_honest_share * sites + 1e-9)
        return max(1, min(share, self.max_honest or sites))

    def save(self, path: Path) -> None:
        """Writes the file that `load` reads, with every field, so that it shows what there is to set."""
        content = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        write_atomic(path, content.encode())
