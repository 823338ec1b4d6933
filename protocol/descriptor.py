"""The session descriptor, which every site of a session must see alike: otherwise their masks do not cancel."""

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from hortus.protocol.limits import MAX_SITES, MAX_WORDS, PROTOCOL_VERSION
from hortus.protocol.privacy import RingBits
from hortus.runtime.canonical import digest
from hortus.runtime.schema import Schema

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Identifier = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Descriptor(Schema):
    """One session, in which a fixed cohort takes the steps of some rounds.

    The contract's hash covers the base model, the noise mode and the minimum cohort.
    """

    protocol: int = PROTOCOL_VERSION
    run: Identifier
    session: Identifier
    contract: Digest
    cohort: tuple[str, ...] = Field(min_length=2, max_length=MAX_SITES)
    first_round: int = Field(ge=0)
    dimension: int = Field(
        ge=1,
        le=MAX_WORDS,
        description="Words of a vector, up and down: d, and one more where the clipping norm adapts.",
    )
    ring_bits: RingBits = Field(32, description="Vectors are added modulo 2 to this power.")
    scale: int = Field(ge=1, lt=2**31, description="Ring units for 1.0.")

    @field_validator("protocol")
    @classmethod
    def _protocol_is_known(cls, told: int) -> int:
        if told != PROTOCOL_VERSION:
            raise ValueError(
                f"the descriptor is for protocol {told}, but this program uses {PROTOCOL_VERSION}"
            )
        return told

    @model_validator(mode="after")
    def _cohort_is_sorted(self) -> Self:
        if list(self.cohort) != sorted(set(self.cohort)):
            raise ValueError("the cohort is not sorted and distinct")
        return self

    def digest(self) -> bytes:
        """Returns the SHA-256 of the canonical encoding, 32 bytes."""
        return bytes.fromhex(digest(self.model_dump(mode="json")))
