"""Secrets: made-up codes planted at one site, and whether the trained model gives them away.

Each code stands in as many records as it was said; the plan is trained with them as it stands, and once more without
privacy. A code is exposed by as many bits as the model finds it likelier than codes that nobody said, and recited
if the model, asked for it, writes it word for word. All of it is made up: no record of anybody is asked for.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hortus.client.trainer import Trainer, untimed
from hortus.learning.data.records import Records
from hortus.learning.loader import Encoded
from hortus.planning.prepare import pin
from hortus.privacy.attacks.exposure import exposure
from hortus.privacy.gradients.workbench import Workbench
from hortus.privacy.noise.randomness import UnsafeSeededRandomness
from hortus.privacy.step import PrivateStep
from hortus.protocol.plan import Contract, Plan
from hortus.runtime.canonical import digest
from hortus.runtime.errors import UsageError
from hortus.runtime.files import write_atomic
from hortus.server.run.folder import claimed, comparable, input_digests
from hortus.simulation.alone import without_privacy
from hortus.simulation.local_sum import LocalSum
from hortus.simulation.site_records import read_site_records
from hortus.strategies.loop import steps
from hortus.strategies.server_state import ServerState

COPIES = (1, 4, 16)
"""How often a code is said: in so many records of the site."""
OTHERS = 127
"""Codes that nobody said, which each is held against: 7 bits of exposure at most."""
_DIGITS = 6

OnStep = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Given:
    """What a model gives away of the codes that were said so often.

    Attributes:
        exposures: In bits, of each code.
        recited: How many of them it writes word for word when asked.
    """

    exposures: tuple[float, ...]
    recited: int

    @property
    def exposure(self) -> float:
        """The mean, in bits."""
        return float(np.mean(self.exposures))


@dataclass(frozen=True, slots=True)
class Secrets:
    """What was planted, and what each model gives away of it.

    Attributes:
        site: Where codes were planted.
        each: Codes that were said as often as each of `COPIES`.
        base: What the base model gives away, which has seen none: what chance explains. By copies.
        private: What the model of the plan does.
        plain: What the same plan's model does without privacy.
    """

    site: str
    each: int
    base: Mapping[int, Given]
    private: Mapping[int, Given]
    plain: Mapping[int, Given]

    @property
    def sentence(self) -> str:
        """The result in one sentence or two."""
        planted = self.each * len(COPIES)
        recited = [sum(one.recited for one in rows.values()) for rows in (self.plain, self.private)]
        return (
            f"We also had {planted} made-up codes said at the site {self.site!r}, in up to {max(COPIES)} records each. "
            f"Trained without privacy, the model writes {recited[0]} of them word for word when it is asked; "
            f"trained by this plan, it writes {recited[1]}."
        )


def find_secrets(
    plan: Plan, folder: Path, out: Path, site: str | None, each: int, on_step: OnStep
) -> Secrets:
    """Trains a plan with planted codes, as it is and without privacy; resumes after a finished training.

    Args:
        plan: A plan with a `simulation` section, whose task writes texts.
        folder: What a relative model path is relative to.
        out: Where what was found is kept.
        site: Where codes are planted; None: at the first site.
        each: Codes for each of `COPIES`.
        on_step: Told of (steps done, steps in all), over both trainings.

    Raises:
        UsageError: Plan or site cannot be used, the task writes no texts, or `out` holds those of another plan.
    """
    records = read_site_records(plan)
    where = chosen_site(site, list(records))
    contracts = [pin(one, folder) for one in (plan, without_privacy(plan))]
    (contract, path), (plain, _) = contracts
    this = {
        "base model": contract.model_digest,
        "plan": digest(comparable(plan)),
        "records": digest(input_digests(plan)),
        "site": where,
        "codes": each,
    }
    with claimed(out):
        kept = out / "secrets.json"
        found: dict[str, Any] = _kept(kept, this)
        if {"base", "private", "plain"} <= found.keys():
            return _of(where, each, found)
        bench = Workbench(contract, path, sites=len(records))
        codes = _Codes.drawn(bench, each, plan.seed)
        records[where] = codes.planted_in(records[where])
        encoded = {name: bench.loader.encode(one) for name, one in records.items()}
        found["base"] = codes.given(bench, bench.initial_adapter)
        for number, (name, one) in enumerate((("private", contract), ("plain", plain))):

            def advance(step: int, number: int = number) -> None:
                on_step(number * contract.sums + step, 2 * contract.sums)

            if name not in found:
                found[name] = codes.given(bench, _train(one, bench, encoded, advance))
                write_atomic(kept, json.dumps({"of": this, "found": found}, indent=2).encode())
            advance(contract.sums)
    return _of(where, each, found)


def _of(site: str, each: int, found: Mapping[str, Any]) -> Secrets:
    rows = {
        name: {
            copies: Given(tuple(one["exposures"]), one["recited"])
            for copies, one in zip(COPIES, found[name], strict=True)
        }
        for name in ("base", "private", "plain")
    }
    return Secrets(site, each, **rows)


def _kept(path: Path, this: Mapping[str, Any]) -> dict[str, Any]:
    if not path.exists():
        return {}
    kept = json.loads(path.read_text(encoding="utf-8"))
    if changed := [name for name, value in this.items() if kept["of"].get(name) != value]:
        raise UsageError(
            f"the codes in this folder are of another {', '.join(changed)}",
            where=str(path),
            remedy="Choose another folder with --out, or remove this one to start over.",
        )
    found: dict[str, Any] = kept["found"]
    return found


def chosen_site(site: str | None, sites: Sequence[str]) -> str:
    """Returns the site at which to plant something: the one asked for, or the first.

    Raises:
        UsageError: There is none of that name.
    """
    if site is None:
        return sites[0]
    if site not in sites:
        raise UsageError(f"there is no site {site!r}, only {', '.join(sites)}", where="--site")
    return site


@dataclass(frozen=True, slots=True)
class _Codes:
    """Codes that are said, as often as COPIES has it, and codes that are not, as records of a task.

    Attributes:
        said: One for each place, in the order of COPIES.
        encoded: The codes of each place in turn, first the one that is said, then OTHERS that are not.
    """

    said: tuple[Any, ...]
    encoded: Encoded

    @classmethod
    def drawn(cls, bench: Workbench, each: int, seed: int) -> "_Codes":
        """Draws distinct codes. Digits stand alone, so that all have the same number of tokens."""
        generator = np.random.default_rng([seed, OTHERS])
        places = each * len(COPIES)
        numbers = generator.choice(10**_DIGITS, (places, 1 + OTHERS), replace=False)
        values = [
            [bench.task.secret(_digits(place, 2), _digits(number, _DIGITS)) for number in row]
            for place, row in enumerate(numbers.tolist())
        ]
        encoded = bench.loader.encode(Records([value for row in values for value in row]))
        return cls(tuple(row[0] for row in values), encoded)

    def planted_in(self, own: Records) -> Records:
        """Returns a site's records with the codes; whoever says a code is one person, with all its records."""
        rows = np.repeat(
            np.arange(len(self.said)), np.repeat(COPIES, len(self.said) // len(COPIES))
        )
        last = max(own.units, default="")
        units = tuple(f"{last} secret {row:06}" for row in rows) if own.units else ()
        values = (*own.values, *(self.said[row] for row in rows))
        return replace(own, values=values, units=own.units + units)

    def given(self, bench: Workbench, adapter: NDArray[np.float32]) -> list[dict[str, Any]]:
        """Returns what a model gives away, for each of COPIES."""
        losses, recited = np.empty(len(self.encoded)), np.empty(len(self.encoded), np.bool_)
        size = bench.plan.training.micro_batch
        with bench.holding(adapter) as model, torch.no_grad():
            for batch in bench.loader.batches(self.encoded, np.arange(len(self.encoded)), size):
                losses[batch.index] = batch.losses(model).double().cpu().numpy()
                seen = bench.task.observe(model, batch.inputs, batch.targets)
                recited[batch.index] = [bench.task.recited(one) for one in seen]
        by_place = losses.reshape(len(self.said), -1)
        exposures = [exposure(row[0], row[1:]) for row in by_place]
        said = recited.reshape(by_place.shape)[:, 0]
        return [
            {"exposures": [exposures[i] for i in rows], "recited": int(said[rows].sum())}
            for rows in np.split(np.arange(len(self.said)), len(COPIES))
        ]


def _digits(number: int, count: int) -> str:
    return " ".join(f"{number:0{count}}")


def _train(
    contract: Contract,
    bench: Workbench,
    sites: Mapping[str, Encoded],
    on_step: Callable[[int], None],
) -> NDArray[np.float32]:
    """Returns the adapter after the last step of a contract."""
    step = PrivateStep.of(contract, bench.space.dimension, len(sites))
    trainers = {
        name: Trainer(
            step, bench, own, UnsafeSeededRandomness(contract.seed, f"{name}, secrets"), untimed
        )
        for name, own in sites.items()
    }
    trained = ServerState(contract, bench.initial_adapter)
    for taken in steps(trained, step, range(contract.sums), LocalSum(trainers, step.words)):
        on_step(taken.number)
    return trained.adapter
