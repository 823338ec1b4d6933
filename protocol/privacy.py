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
    """Where the noise of a private step is added."""

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
        description="Whom the promise protects: `record`, or the column that says whose a record "
        "is, such as `patient_id`. Two datasets are neighbours when one has one unit more, with "
        "all its records.",
    )
    max_records_per_unit: Count | None = Field(
        None,
        description="Most records of a unit in one step, drawn anew for each; a unit's gradient is "
        "the mean over them. Belongs to a `unit` that is a column, and is needed there.",
    )
    epsilon: Positive | None = Field(
        None, description="ε that a site spends on the whole plan; the noise is derived from it."
    )
    delta: Delta = Field(1e-5, description="δ at which ε is stated, 0.01 at most.")
    noise_multiplier: Positive | None = Field(None, description="σ / C of a step, instead of ε.")
    spare_attempts: int | None = Field(
        None,
        ge=0,
        le=2**20,
        description="Attempts at secure sums that ε pays for beyond the plan's own sums. A sum that is "
        "under way when a process dies, or that is made again without a site that failed, uses one. None: "
        "one for each 20 sums, and at least 2.",
    )
    clipping_norm: Positive = Field(
        1.0,
        description="C: the L2 norm a unit's gradient is cut to; the first one, where it adapts. Nothing is "
        "cut with `noise: unsafe_none`.",
    )
    clipping: Section = Field(
        Section(kind="flat"),
        description="How a unit's gradient is cut to C (not with `noise: unsafe_none`): see the clipping rules below.",
    )
    accountant: Section = Field(
        Section(kind="pld"),
        description="What the noise for ε is chosen by: see the accountants below. Whatever it is, ledgers, budgets and "
        "audits count by the tightest bound.",
    )
    engine: Section = Field(
        Section(kind="hortus"),
        description="What computes the gradients of single units: see the gradient engines below. `hortus plan "
        "PLAN.yaml --verify` compares them.",
    )
    ring_bits: RingBits = Field(
        32,
        description="Bits of a word of an upload. 24 saves a quarter of the bytes up, and costs noise: "
        "sums are rounded 256 times more coarsely, which the accountant charges (`hortus plan` says "
        "how much). A plan that does not fit is refused.",
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
                "max_records_per_unit belongs to a unit that is a column, and is needed there"
            )
        return self

    @property
    def unit_norm(self) -> float:
        """What one unit adds to a sum at most, in L2 norm: C, unless the clipping rule states another."""
        return _stated(self.clipping, "unit_norm", self.clipping_norm)

    @property
    def norm_bounds(self) -> tuple[float, float]:
        """The least and the largest C of a step: C itself, unless the clipping rule states others."""
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
    """Returns a number that a section states of itself, whatever its kind.

    Raises:
        ValueError: It is no number.
    """
    value = (section.model_extra or {}).get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is no number")  # noqa: TRY004 - of a plan's text
    return float(value)
