"""The `privacy` section of a plan: the mechanism of every step, and the budget of the whole plan."""

from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from hortus.protocol.numbers import Count, Delta, Positive
from hortus.protocol.section import Section
from hortus.runtime.schema import Schema

RingBits = Literal[24, 32]
_LEAST_RING_BITS = 24
RECORD = "record"  # the privacy unit that is no column


class Noise(StrEnum):
    """The parties that add the noise of a private step."""

    DISTRIBUTED = "distributed"
    LOCAL = "local"
    UNSAFE_NONE = "unsafe_none"


class Privacy(Schema):
    """The mechanism of every step and the budget of the whole plan, for each site."""

    noise: Noise = Field(
        Noise.DISTRIBUTED,
        description="`distributed`: each site adds a share and only the sum is private. `local`: "
        "each site's own release is private. `unsafe_none`: no privacy, research only.",
    )
    unit: str = Field(
        RECORD,
        min_length=1,
        description="Whom the promise protects: `record`, or the column that says whose record it is, such as "
        "`patient_id`. Two datasets are neighbours if one has exactly one unit more, with all its "
        "records.",
    )
    max_records_per_unit: Count | None = Field(
        None,
        description="Most records of a unit in one step. They are drawn again for each step, and the unit's "
        "gradient is their mean. Required if `unit` is a column, and not allowed otherwise.",
    )
    epsilon: Positive | None = Field(
        None,
        description="ε that a site spends on the whole plan. Hortus derives the noise from it.",
    )
    delta: Delta = Field(1e-5, description="The δ at which ε is stated; at most 0.01.")
    noise_multiplier: Positive | None = Field(
        None, description="σ / C of a step, given instead of ε."
    )
    spare_attempts: int | None = Field(
        None,
        ge=0,
        le=2**20,
        description="Attempts at secure sums that ε pays for beyond the plan's own sums. An attempt is used "
        "up when a process dies during a sum, and when a sum is repeated without a site that "
        "failed. Without it: one for each 20 sums, and at least 2.",
    )
    clipping_norm: Positive = Field(
        1.0,
        description="C, the L2 norm to which a unit's gradient is clipped. If the clipping norm adapts, this "
        "is the first one. Nothing is clipped with `noise: unsafe_none`.",
    )
    clipping: Section = Field(
        Section(kind="flat"),
        description="How a unit's gradient is clipped to C: see the clipping rules below. Not used with "
        "`noise: unsafe_none`.",
    )
    accountant: Section = Field(
        Section(kind="pld"),
        description="Which accountant chooses the noise for ε: see the accountants below. Ledgers, budgets "
        "and audits use the tightest bound in any case.",
    )
    engine: Section = Field(
        Section(kind="hortus"),
        description="What computes the gradients of individual units: see the gradient engines below. `hortus "
        "plan PLAN.yaml --verify` compares them.",
    )
    ring_bits: RingBits = Field(
        32,
        description="Bits in each word of an upload. 24 saves a quarter of the upload and costs noise: sums "
        "are rounded 256 times more coarsely, and the accountant charges for that (`hortus plan` "
        "says how much). Hortus refuses a plan that does not fit.",
    )

    @field_validator("ring_bits", mode="before")
    @classmethod
    def _no_smaller_ring(cls, bits: object) -> object:
        if isinstance(bits, int) and bits < _LEAST_RING_BITS:
            raise ValueError(
                f"a ring of {bits} bits is too small: 16 have no room for a cohort's sums, and 17 to "
                "23 would save no byte over 24"
            )
        return bits

    @property
    def unit_column(self) -> str | None:
        """Column of the unit's id; None where each record is a unit."""
        return None if self.unit == RECORD else self.unit

    @model_validator(mode="after")
    def _cap_of_a_column(self) -> Self:
        if (self.unit_column is None) != (self.max_records_per_unit is None):
            raise ValueError(
                "max_records_per_unit is required if unit is a column, and not allowed otherwise"
            )
        return self

    @property
    def unit_norm(self) -> float:
        """The most that one unit adds to a sum, in L2 norm: C, unless the clipping rule states another."""
        return _stated(self.clipping, "unit_norm", self.clipping_norm)

    @property
    def norm_bounds(self) -> tuple[float, float]:
        """The smallest and the largest C of a step: C itself, unless the clipping rule states others."""
        norm = self.clipping_norm
        return _stated(self.clipping, "smallest", norm), _stated(self.clipping, "largest", norm)

    @model_validator(mode="after")
    def _norm_within_bounds(self) -> Self:
        smallest, largest = self.norm_bounds
        if not (smallest <= self.clipping_norm <= largest and self.unit_norm > 0):
            raise ValueError("clipping_norm is not between clipping.smallest and clipping.largest")
        return self

    @model_validator(mode="after")
    def _budget_or_noise(self) -> Self:
        given = (self.epsilon is not None) + (self.noise_multiplier is not None)
        if self.noise is Noise.UNSAFE_NONE and (given or self.spare_attempts is not None):
            raise ValueError(
                "noise: unsafe_none takes neither epsilon nor noise_multiplier nor spare_attempts"
            )
        if self.noise is not Noise.UNSAFE_NONE and given != 1:
            raise ValueError("give exactly one of epsilon and noise_multiplier")
        return self


def _stated(section: Section, name: str, default: float) -> float:
    """Returns a number that a section states about itself, whatever its kind.

    Raises:
        ValueError: The value is not a number.
    """
    value = (section.model_extra or {}).get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is not a number")  # noqa: TRY004 - of a plan's text
    return float(value)
