"""A site's policy: what the site allows, whatever a server or a plan asks for."""

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
    """The most that all releases of one calendar period may cost."""

    epsilon: float = Field(gt=0, allow_inf_nan=False, description="Largest ε of a period.")
    every: Every = Field(Every.YEAR, description="`month`, `quarter` or `year`, in UTC.")


class Budget(Schema):
    """The most that all releases from one dataset may cost together, however the dataset changes, as (ε, δ)-differential privacy."""

    epsilon: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="Largest ε over all plans and all time. `hortus budget grant` adds to it.",
    )
    delta: Delta = Field(description="The δ at which every ε is computed; at most 0.01.")
    per_plan: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Largest ε of one plan."
    )
    per_period: PeriodBudget | None = Field(
        None, description="Largest ε of one calendar period. No limit if absent."
    )
    unit: str = Field(
        RECORD,
        min_length=1,
        max_length=200,
        description="Whom the budget protects, as in a plan's `privacy.unit`. The site refuses plans with "
        "another unit, because their privacy losses cannot be added up.",
    )


class AutoApprove(Schema):
    """The limits within which this site takes part in plans that nobody here has read. A plan must keep all of them."""

    max_epsilon: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="Largest ε of one plan at the budget's δ, as this site computes it. It also limits what "
        "the plan's repeated attempts may cost.",
    )
    models: tuple[PlanHash, ...] = Field(
        min_length=1,
        description="Hashes of the allowed base models. `hortus plan show` prints a plan's.",
    )
    tasks: tuple[PlanHash, ...] = Field(
        min_length=1,
        description="Hashes of the allowed `task` sections, each as a whole. `hortus plan show` prints a "
        "plan's. A server that could name other columns and labels would learn from a refusal "
        "whether the records have them.",
    )
    max_rounds: int = Field(ge=1, description="Largest number of rounds of a plan.")
    min_cohort: int = Field(ge=2, description="Smallest number of sites that a plan may sum over.")
    max_steps_per_round: int = Field(
        100, ge=1, description="Largest number of private steps in a round, local steps included."
    )
    max_sampling_rate: Fraction = Field(
        0.5, description="Largest q, the share of the records that a step uses."
    )
    noise: tuple[Literal[Noise.DISTRIBUTED, Noise.LOCAL], ...] = Field(
        (Noise.DISTRIBUTED, Noise.LOCAL),
        min_length=1,
        description="Allowed noise modes. A site that trusts nobody allows only `local`.",
    )
    strategies: tuple[str, ...] = Field(
        ("fedsgd",), min_length=1, description="Allowed kinds of strategy."
    )
    local_optimizers: tuple[str, ...] = Field(
        ("SGD", "Adam"),
        description="Kinds of optimizer with which a strategy may step at this site, as `fedavg` does.",
    )
    local_options: tuple[str, ...] = Field(
        ("momentum", "weight_decay", "nesterov", "betas", "eps"),
        description="Options that a strategy may give these optimizers.",
    )
    adapters: tuple[str, ...] = Field(
        ("lora", "head"), min_length=1, description="Allowed kinds of adapter."
    )
    ceilings: dict[str, Positive] = Field(
        default_factory=dict,
        description="Largest values of individual fields of a plan's kinds, by their place, such as "
        "`adapter.rank: 32`. They replace each kind's own limit, such as 64 for LoRA's rank.",
    )
    max_parameters: int = Field(
        10_000_000,
        ge=1,
        description="Largest number of trained parameters. It bounds memory and the size of an upload.",
    )
    max_micro_batch: int = Field(
        128,
        ge=1,
        description="Largest number of records that go through the model together. It bounds memory.",
    )
    precisions: tuple[Precision, ...] = Field(
        (Precision.FLOAT32,), min_length=1, description="Allowed number formats of the base model."
    )
    max_deadline: Deadline = Field(
        3600.0,
        description="Longest deadline for joining and for a step, in seconds. A server that does not answer "
        "can keep this site waiting this long.",
    )
    max_plans: int = Field(
        20,
        ge=1,
        description="Largest number of unread plans that the site keeps in `plans/`, each of at most 1 MiB. "
        "The site never drops one, because an audit needs every plan that was charged; it refuses "
        "further ones. An approved plan no longer counts.",
    )


class Policy(SchemaFile):
    """The file policy.yaml, which only the site's operator writes."""

    budget: Budget
    min_cohort: int = Field(
        3, ge=2, description="Smallest number of sites that a sum may be made of."
    )
    min_honest: int = Field(
        2,
        ge=1,
        description="Smallest number of sites that a plan may assume not to conspire with the server.",
    )
    max_honest_share: Fraction = Field(
        0.67,
        description="Largest share of the sites in the smallest sum, this one included, whose noise a plan "
        "with `noise: distributed` may count on. It is rounded down, and this site always counts. "
        "If more of the sites than the remaining ones reveal their noise to the server, the "
        "actual ε of the others is larger than stated.",
    )
    max_honest: int | None = Field(
        None,
        ge=1,
        description="Largest number of those sites, whatever their share. No limit if absent.",
    )
    auto_approve: AutoApprove | None = Field(
        None, description="Also take part in plans that nobody here has read, within these limits."
    )
    plug_ins: tuple[str, ...] = Field(
        (),
        description="Packages of third parties whose tasks, adapters and other kinds may be loaded here, as "
        "pip names them. Their code runs with access to this site's records and keys.",
    )
    unsafe_seeded_noise: bool = Field(
        False,
        description="Add repeatable noise, for tests only: whoever knows the seed can subtract it.",
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
        """Returns how many of this many sites in a sum a plan may assume to be honest, this one included."""
        share = math.floor(self.max_honest_share * sites + 1e-9)
        return max(1, min(share, self.max_honest or sites))

    def save(self, path: Path) -> None:
        """Writes the file that `load` reads, with every field, to show what can be set."""
        content = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        write_atomic(path, content.encode())
