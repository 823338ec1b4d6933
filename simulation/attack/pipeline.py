"""An attack on a plan's own pipeline: canaries are planted at one site, and their presence guessed.

Canaries are records of the site that got a wrong answer each, or, where models learn tokens, a token as their answer
that no record holds: nothing but themselves teaches what they say. In each of some trainings each of them is in the site's data by a fair coin. Everything
else is the plan's: sampling, clipping, encoding, noise, ring sum and server steps, by the deployment's
code; what is left out are the masks, which cancel, and the ledger, which changes nothing.

The attacker is the strongest that the claim covers: it sees every sum, as the server does, and knows
all records, even which of the others joined which step, but not the canaries' coins. What it cannot
explain is the canaries that joined, and the noise. A canary's score is its part in that by ridge
regression over all steps, on the clipped gradients of all canaries.
"""

import copy
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hortus.client.trainer import Trainer, untimed
from hortus.learning.data.records import Records
from hortus.learning.loader import Batch, Encoded
from hortus.planning.prepare import pin
from hortus.privacy.accounting.forecast import PlanCost
from hortus.privacy.attacks.membership_inference import logit_confidence
from hortus.privacy.gradients.workbench import Workbench
from hortus.privacy.noise.randomness import UnsafeSeededRandomness
from hortus.privacy.step import PrivateStep, nominal_batch
from hortus.protocol.plan import Contract, Plan
from hortus.runtime.canonical import digest
from hortus.runtime.errors import UsageError
from hortus.runtime.files import write_atomic
from hortus.server.run.folder import claimed, comparable, input_digests
from hortus.simulation.attack.attacker import Regression, WatchedGradients
from hortus.simulation.attack.secrets import chosen_site
from hortus.simulation.local_sum import LocalSum
from hortus.simulation.site_records import read_site_records
from hortus.strategies.base import Strategy
from hortus.strategies.kinds import strategy_of
from hortus.strategies.loop import steps
from hortus.strategies.server_state import ServerState

_FEWEST_CANARIES = 10
_MOST_CANARIES = 200
_MOST_NUMBERS = 2**28  # of the canaries' gradients, which are all held


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of the canaries in some trainings.

    Attributes:
        site: Where they were planted.
        contract: What was trained.
        cost: What the plan claims to release.
        present: bool (trainings, canaries), the coins.
        scores: float64 (trainings, canaries), those of the attacker who sees every sum.
        confidence: float64 (trainings, canaries), the finished model's logit of each canary's label.
    """

    site: str
    contract: Contract
    cost: PlanCost
    present: NDArray[np.bool_]
    scores: NDArray[np.float64]
    confidence: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is asked for.

    Attributes:
        trainings: How often the plan is trained; each training has all others as shadow models.
        site: Where canaries are planted; None: at the first site.
        canaries: How many; None: half of the site's records, at most 200.
    """

    trainings: int
    site: str | None
    canaries: int | None


OnStep = Callable[[int, int], None]


def attack(plan: Plan, folder: Path, out: Path, setting: Setting, on_step: OnStep) -> Observation:
    """Trains a plan several times with canaries; resumes after the last finished training.

    Args:
        plan: A plan with a `simulation` section.
        folder: What a relative model path is relative to.
        out: Where finished trainings are kept.
        setting: How often, and where.
        on_step: Told of (steps done, steps in all), over all trainings.

    Raises:
        UsageError: Plan, data or setting cannot be used, or `out` holds another attack.
    """
    contract, model_path = pin(plan, folder)
    records = read_site_records(plan)
    site = chosen_site(setting.site, list(records))
    rest, canaries = split(records.pop(site), setting.canaries, plan.seed)
    bench = Workbench(contract, model_path, sites=len(records) + 1)
    stage = _Stage.set_up(contract, bench, site, records, rest, canaries)
    if len(canaries) * stage.workbench.space.dimension > _MOST_NUMBERS:
        raise UsageError(
            f"the gradients of {len(canaries)} canaries do not fit in memory", where="--canaries"
        )
    with claimed(out):
        _claim_folder(out, contract, site, len(canaries), plan)
        steps = contract.sums
        seen = []
        for number in range(setting.trainings):
            path = out / f"training-{number + 1:03}.npz"

            def advance(step: int, number: int = number) -> None:
                on_step(number * steps + step, setting.trainings * steps)

            if not path.exists():
                write_atomic(path, _to_bytes(stage.train(number, advance)))
            advance(steps)
            seen.append(dict(np.load(path)))
    return Observation(
        site=site,
        contract=contract,
        cost=stage.cost,
        **{name: np.stack([one[name] for one in seen]) for name in seen[0]},
    )


def split(own: Records, count: int | None, seed: int) -> tuple[Records, Records]:
    """Draws the records of a site that become canaries.

    Args:
        own: The site's records.
        count: How many; None: half of the records, at most 200.
        seed: The plan's.

    Returns:
        The other records, and those.

    Raises:
        UsageError: The site has too few records.
    """
    number = min(len(own) // 2, _MOST_CANARIES) if count is None else count
    if not _FEWEST_CANARIES <= number < len(own):
        raise UsageError(
            f"{number} canaries cannot be taken from the site's {len(own)} records",
            where="--canaries",
            remedy=f"At least {_FEWEST_CANARIES} are needed, and records to hide them among.",
        )
    order = np.random.default_rng([seed, len(own)]).permutation(len(own))
    return own.take(np.sort(order[number:])), own.take(np.sort(order[:number]))


def plant(taken: Records, others: Sequence[Encoded], bench: Workbench) -> Encoded:
    """Makes canaries of records, each a privacy unit of its own.

    Args:
        taken: The records.
        others: All other records, of every site.
        bench: Their task knows of wrong answers, or of tokens that are learnt.

    Returns:
        The canaries, not run ahead.

    Raises:
        UsageError: No canaries are known for the task.
    """
    generator = np.random.default_rng([bench.plan.seed, len(taken)])
    alone = replace(taken, units=())
    given = bench.loader.encode(alone)
    if bench.task.new_token(given.examples[0], 0) is None:
        wrong = tuple(bench.task.canary(value, generator) for value in taken.values)
        given = bench.loader.encode(replace(alone, values=wrong))
        return replace(given, states=None, embeddings=None)
    seen = {
        token for one in (*others, given) for example in one.examples for token in example.tokens
    }
    unused = np.array(sorted(set(range(bench.base.vocabulary)) - seen) or [0])
    tokens = np.resize(generator.permutation(unused), len(given)).tolist()
    examples = [
        bench.task.new_token(example, token)
        for example, token in zip(given.examples, tokens, strict=True)
    ]
    return Encoded(tuple(one for one in examples if one), given.units)


@dataclass(frozen=True, slots=True)
class _Stage:
    """A plan with its sites' data, ready to be trained again and again."""

    contract: Contract
    strategy: Strategy
    encoding: PrivateStep
    workbench: Workbench
    initial: NDArray[np.float32]
    site: str
    others: Mapping[str, Encoded]
    rest: Encoded
    canaries: Encoded  # their units are numbered from 0

    @classmethod
    def set_up(
        cls,
        contract: Contract,
        workbench: Workbench,
        site: str,
        others: Mapping[str, Records],
        rest: Records,
        canaries: Records,
    ) -> "_Stage":
        elsewhere = {name: workbench.loader.encode(own) for name, own in others.items()}
        beside = workbench.loader.encode(rest)
        planted = plant(canaries, (beside, *elsewhere.values()), workbench)
        return cls(
            contract,
            strategy_of(contract),
            PrivateStep.of(contract, workbench.space.dimension, len(others) + 1),
            workbench,
            workbench.initial_adapter,
            site,
            elsewhere,
            beside,
            workbench.loader.ahead(planted),
        )

    @property
    def count(self) -> int:
        """How many canaries there are."""
        return 1 + int(self.canaries.units[-1])

    @property
    def first(self) -> int:
        """The number of the first canary's unit at the site."""
        return 1 + int(self.rest.units.max())

    @property
    def cost(self) -> PlanCost:
        return PlanCost.of(self.encoding.event, self.contract)

    def train(self, number: int, on_step: Callable[[int], None]) -> dict[str, NDArray[np.generic]]:
        """Trains the plan once, with coins, sampling and noise of its own."""
        seed = self.contract.seed
        present = np.random.default_rng([seed, number]).random(self.count) < 0.5
        bench = copy.copy(self.workbench)
        bench.gradients = watched = WatchedGradients(bench.model, self.encoding, len(self.rest))
        watched.workers = self.workbench.workers
        there = np.flatnonzero(present[self.canaries.units])
        trainers = {
            name: Trainer(
                self.encoding,
                bench,
                records,
                UnsafeSeededRandomness(seed, f"{name}, attack, training {number}"),
                untimed,
            )
            for name, records in {self.site: self._with(present), **self.others}.items()
        }
        add_up = LocalSum(trainers, self.encoding.words)

        def observed(
            step: int, start: NDArray[np.float32]
        ) -> tuple[NDArray[np.uint32], tuple[str, ...]]:
            on_step(step)
            watched.begin(self.encoding.clipping_norm(start))
            return add_up(step, start)

        trained = ServerState(self.contract, self.initial)
        guess = Regression(self.count, self.contract.training.sampling_rate)
        for step in steps(trained, self.encoding, range(self.contract.sums), observed):
            rows = self._gradients(step.start)
            seen = self._released(step.total)
            if self.strategy.sums_releases:
                joined = np.unique(self.canaries.units[there[watched.joined[0] - len(self.rest)]])
                seen = seen - watched.total + rows[joined].sum(0)
            guess.add(rows, seen)
        confidence = logit_confidence(self._losses(trained.adapter))
        return {"present": present, "scores": guess.scores(), "confidence": confidence}

    def _released(self, total: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Returns a ring sum as the sum of clipped gradients, or against the move, float64[words]."""
        summed = self.strategy.codec(self.encoding).decode(total)
        if not self.strategy.sums_releases:
            return self.strategy.pseudo_gradient(summed)
        return summed if self.encoding.mechanism else summed * nominal_batch(self.contract)

    def _with(self, present: NDArray[np.bool_]) -> Encoded:
        """Returns the site's data with the canaries that are there, numbered after all other units."""
        there = np.flatnonzero(present[self.canaries.units])
        numbers = np.cumsum(present)[self.canaries.units[there]] - 1
        return self.workbench.loader.ahead(
            Encoded(
                (*self.rest.examples, *(self.canaries.examples[i] for i in there.tolist())),
                np.concatenate([self.rest.units, self.first + numbers]),
            )
        )

    def _gradients(self, start: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns what each canary adds to a sum that it joins, float64 (canaries, words)."""
        norm = self.encoding.clipping_norm(start)
        rows = np.empty((self.count, self.encoding.words))
        with self.workbench.holding(start[: self.encoding.dimension]):
            for batch in self._batches():
                each = self.workbench.gradients.clipped_each(
                    batch, self.encoding.clipping(norm), self.encoding.grid
                )
                # A batch numbers its units in the order of their numbers, which are the canaries'.
                found = np.unique(self.canaries.units[batch.index])
                for canary, clipped in zip(found, each, strict=True):
                    rows[canary] = self.encoding.addend(clipped, norm)
        return rows

    def _losses(self, adapter: NDArray[np.float32]) -> NDArray[np.float64]:
        losses = np.zeros(self.count)
        with self.workbench.holding(adapter) as model, torch.no_grad():
            for batch in self._batches():
                each = batch.losses(model).double().cpu().numpy()
                np.add.at(losses, self.canaries.units[batch.index], each)
        return losses

    def _batches(self) -> Iterator[Batch]:
        size = self.contract.training.micro_batch
        return self.workbench.loader.batches(self.canaries, np.arange(len(self.canaries)), size)


def _claim_folder(out: Path, contract: Contract, site: str, canaries: int, plan: Plan) -> None:
    """Notes what the folder's trainings are of, or refuses those of something else."""
    path = out / "attack.json"
    this = {
        "base model": contract.model_digest,
        "plan": digest(comparable(plan)),
        "records": digest(input_digests(plan)),
        "site": site,
        "number of canaries": canaries,
    }
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else this
    changed = [name for name, value in this.items() if before.get(name) != value]
    if changed:
        raise UsageError(
            f"the trainings in this folder are of another {', '.join(changed)}",
            where=str(out),
            remedy="Choose another folder with --out, or remove this one to start over.",
        )
    write_atomic(path, json.dumps(this, indent=2).encode())


def _to_bytes(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
