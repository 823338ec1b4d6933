"""A site's policy: what it allows, whatever a server or a plan asks."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from hortus.protocol.files import load_yaml, validation_error, write_atomic
from hortus.protocol.plan import RECORD, Schema

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
    """What all releases from one dataset may cost together: (ε, δ)-differential privacy."""

    epsilon: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="Largest ε over all plans, for ever; `hortus budget grant` adds to it.",
    )
    delta: float = Field(gt=0, lt=1, description="The δ at which every ε is computed.")
    per_plan: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Largest ε of one plan."
    )
    per_period: PeriodBudget | None = Field(
        None, description="Largest ε of one calendar period; none if absent."
    )
    unit: str = Field(
        RECORD,
        min_length=1,
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


class Policy(Schema):
    """policy.yaml, which only the site's operator writes."""

    budget: Budget
    min_cohort: int = Field(3, ge=2, description="Fewest sites that a sum may be made of.")
    min_honest: int = Field(
        2,
        ge=1,
        description="Fewest sites that a plan may count on not to conspire with the server.",
    )
    approved_plans: tuple[PlanHash, ...] = Field(
        (), description="Hashes of the plans that the operator has read and approved."
    )
    auto_approve: AutoApprove | None = Field(
        None, description="Take part also in plans that nobody here has read, within these limits."
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
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads policy.yaml.

        Raises:
            UsageError: The file is wrong; it names each field.
        """
        try:
            return cls.model_validate(load_yaml(path))
        except ValidationError as error:
            raise validation_error(path, error, cls) from error

    def save(self, path: Path) -> None:
        """Writes the file that `load` reads."""
        content = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        write_atomic(path, content.encode())
