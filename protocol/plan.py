"""The plan says what a consortium trains and how privately. A site approves the hash of its contract."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from hortus.protocol.numbers import Count, Deadline, Fraction, Positive
from hortus.protocol.privacy import Noise, Privacy
from hortus.protocol.section import Section
from hortus.runtime.canonical import digest
from hortus.runtime.names import SiteName
from hortus.runtime.schema import Schema

_LEAST_SPARE, _SUMS_PER_SPARE = 2, 20


def _keep_defaults(section: Schema, names: Sequence[str], owner: str) -> None:
    """Raises ValueError if a field is set that would have no effect."""
    for name in names:
        if getattr(section, name) != type(section).model_fields[name].default:
            raise ValueError(f"{name} belongs to {owner}")


class Precision(StrEnum):
    """The number format that the base model computes in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Training(Schema):
    """How many rounds and steps the training has, and how many records each step uses."""

    rounds: Count = Field(
        description="Number of rounds. Each ends with an evaluation and a checkpoint."
    )
    steps_per_round: Count = Field(1, description="Number of secure sums in a round.")
    local_steps: Count = Field(
        1,
        description="Private steps that a site takes for each sum. All of them are charged. More than 1 needs "
        "a strategy in which a site steps on its own, such as `fedavg`.",
    )
    sampling_rate: Fraction = Field(
        description="Probability q with which each unit joins a step, independently of the others. Every step "
        "is charged for it."
    )
    sampler: Section = Field(
        Section(kind="poisson"),
        description="How the units that join a step are drawn: see the samplers below.",
    )
    nominal_units: Count = Field(
        description="A round, public number that stands for the units of a site. It scales the mean gradient "
        "and bounds the ring. Hortus never computes a count from the records."
    )
    precision: Precision = Field(
        Precision.FLOAT32,
        description="Number format of the base model and its activations. `bfloat16` halves their memory. "
        "Adapter, head and gradients are always float32; norms and sums are always float64.",
    )
    micro_batch: int = Field(
        128,
        ge=1,
        description="Most records that share a pass through the model. It bounds memory and changes no bit of "
        "the result. Records of different lengths never share a pass.",
    )

    @property
    def releases_per_round(self) -> int:
        """Private steps in a round."""
        return self.steps_per_round * self.local_steps


class Cohort(Schema):
    """How many sites must take part in a sum, and how long they have."""

    minimum: int = Field(3, ge=2, description="Smallest number of sites in a sum.")
    max_colluding: int = Field(
        0,
        ge=0,
        description="Number of sites that may conspire with the server. The promise then rests on the noise "
        "of the other sites alone.",
    )
    join_deadline: Deadline = Field(120.0, description="Seconds that sites have to join.")
    step_deadline: Deadline = Field(600.0, description="Seconds that sites have for one step.")
    pace: Deadline | None = Field(
        None,
        description="Seconds from the start of a step until every site sends its vector, however early the "
        "site has computed it. The server's clock then reveals nothing about the records. A site "
        "that needs longer uses the next of the times pace·1.25^k, and keeps it for later steps. "
        "Without it, a site starts with 0.1.",
    )

    @property
    def min_honest(self) -> int:
        """Sites whose noise is counted on."""
        return self.minimum - self.max_colluding

    @model_validator(mode="after")
    def _somebody_is_honest(self) -> Self:
        if self.min_honest < 1:
            raise ValueError("max_colluding must be smaller than minimum")
        return self

    @model_validator(mode="after")
    def _sent_in_time(self) -> Self:
        if self.pace is not None and self.pace > self.step_deadline:
            raise ValueError(
                f"pace: {self.pace:g} is more than step_deadline: {self.step_deadline:g}"
            )
        return self


class Agreement(Schema):
    """The fields that a plan and its contract share."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="Name of the run.")
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Public seed. It determines the initial adapter, the partition and the noise of "
        "simulations. A deployed site draws its own noise.",
    )
    model: str = Field(
        description="Base model: a folder or a GGUF file, or `package:NAME/PATH` for one in a Python package."
    )
    task: Section = Field(description="What the model learns: see the tasks below.")
    adapter: Section = Field(
        description="Which parameters are trained: see the adapters below. All others of the base model stay "
        "frozen. Default: `lora`."
    )
    training: Training
    strategy: Section = Field(
        description="What sites compute for a secure sum, and what the server does with it."
    )
    privacy: Privacy
    cohort: Cohort = Field(default_factory=Cohort)

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if (self.privacy.max_records_per_unit or 0) > self.training.micro_batch:
            raise ValueError(
                "privacy.max_records_per_unit is more than training.micro_batch, but the records of "
                "a unit go through the model together"
            )
        return self

    @property
    def steps(self) -> int:
        """Private steps in the whole plan."""
        return self.training.rounds * self.training.releases_per_round

    @property
    def sums(self) -> int:
        """Secure sums in the whole plan."""
        return self.training.rounds * self.training.steps_per_round

    @property
    def spare_attempts(self) -> int:
        """Attempts at sums that ε pays for beyond `sums`; 0 if there is no ε."""
        if self.privacy.noise is Noise.UNSAFE_NONE:
            return 0
        if self.privacy.spare_attempts is not None:
            return self.privacy.spare_attempts
        return max(_LEAST_SPARE, -(-self.sums // _SUMS_PER_SPARE))

    @property
    def releases(self) -> int:
        """Private steps that ε pays for: those of the plan and those of its spare attempts."""
        return self.steps + self.spare_attempts * self.training.local_steps


class Contract(Agreement):
    """A plan with every number filled in, as the server sends it and a site approves it."""

    model_digest: str = Field(pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _noise_is_explicit(self) -> Self:
        if (self.privacy.noise is Noise.UNSAFE_NONE) != (self.privacy.noise_multiplier is None):
            raise ValueError("a contract states its noise multiplier")
        if (self.privacy.noise is Noise.UNSAFE_NONE) != (self.privacy.spare_attempts is None):
            raise ValueError("a contract states its spare attempts")
        return self

    def digest(self) -> str:
        """Returns the hash that sites approve, 64 hexadecimal digits."""
        return digest(self.model_dump(mode="json"))


class Partition(Schema):
    """How one file is divided among virtual sites."""

    kind: Literal["iid", "dirichlet", "column"] = Field(
        "iid",
        description="`iid`: at random. `dirichlet`: label shares drawn per label (Hsu et "
        "al. 2019). `column`: one site for each value of a column.",
    )
    sites: int | None = Field(None, ge=2, description="Number of sites (not for `column`).")
    alpha: Positive = Field(
        1.0,
        description="Concentration of `dirichlet`: the smaller it is, the more the sites differ.",
    )
    column: str | None = Field(None, description="Column that names the site.")

    @model_validator(mode="after")
    def _fields_of_kind(self) -> Self:
        if (self.kind == "column") != (self.column is not None):
            raise ValueError("column belongs to kind: column, and is needed there")
        if (self.kind == "column") == (self.sites is not None):
            raise ValueError("sites belongs to kinds iid and dirichlet, and is needed there")
        if self.kind != "dirichlet":
            _keep_defaults(self, ("alpha",), "kind: dirichlet")
        return self


class Simulation(Schema):
    """Where the virtual sites of `hortus simulate` get their records."""

    sites: dict[SiteName, Path] | None = Field(None, description="The file of each site, by name.")
    train: Path | None = Field(None, description="One file for all sites, divided by `partition`.")
    partition: Partition | None = Field(None, description="How `train` is divided.")
    budgets: dict[SiteName, Positive] = Field(
        default_factory=dict,
        description="ε of individual sites, to rehearse what happens when one of them has spent it.",
    )
    engine: Section = Field(
        Section(kind="rehearsal"),
        description="How the virtual sites take part: see the simulation engines below. It is no part of the contract.",
    )

    @field_validator("engine", mode="before")
    @classmethod
    def _of_the_usual_kind(cls, engine: object) -> object:
        """Fills in the kind: no site or server knows the engines, and none needs one."""
        return {"kind": "rehearsal", **engine} if isinstance(engine, dict) else engine

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.sites is None) == (self.train is None):
            raise ValueError("give either sites or train")
        if (self.train is None) != (self.partition is None):
            raise ValueError("partition belongs to train, and is needed there")
        return self


class Plan(Agreement):
    """A plan file."""

    evaluation: Path | None = Field(
        None, description="Public records on which the server tests the model after each round."
    )
    simulation: Simulation | None = None

    def contract(self, *, model_digest: str, noise_multiplier: float | None) -> Contract:
        """Returns the part that binds the sites, with the noise and the base model fixed."""
        fields = self.model_dump(exclude={"evaluation", "simulation"})
        bare = self.privacy.noise is Noise.UNSAFE_NONE
        fields["privacy"] |= {
            "epsilon": None,
            "noise_multiplier": noise_multiplier,
            "spare_attempts": None if bare else self.spare_attempts,
        }
        return Contract(**fields, model_digest=model_digest)
