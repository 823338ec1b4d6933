"""The numbers that the fields of plans, policies and kinds may hold."""

from typing import Annotated

from pydantic import AfterValidator, Field

Fraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Deadline = Annotated[float, Field(gt=0, le=86_400)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Scalar = bool | int | Finite
# With a larger δ, an ε says little; float64 cannot represent a smaller one.
MOST_DELTA, LEAST_DELTA = 1e-2, 1e-30


def _is_small(delta: float) -> float:
    if delta > MOST_DELTA:
        raise ValueError(
            f"δ is the chance that the promise fails altogether, and {delta:g} is above the limit of "
            f"{MOST_DELTA:g}; choose it well below 1 / the number of units"
        )
    if delta < LEAST_DELTA:
        raise ValueError(
            f"{delta:g} is below {LEAST_DELTA:g}, the smallest δ that Hortus can compute with"
        )
    return delta


Delta = Annotated[float, Field(gt=0), AfterValidator(_is_small)]
