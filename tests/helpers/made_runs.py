"""Runs that nobody trained: real stores, folders, keys and ledgers, with made-up rounds."""

import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hortus.parties.folders import Consortium, ServerConfig
from hortus.parties.founding import create_consortium
from hortus.planning import plan_file
from hortus.privacy.ledger.charges import Added, Charge, Charged
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity
from hortus.protocol.plan import Contract, Plan
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.metric import Better, Breakdown, Chance, Metric, Metrics, Part, Unit
from hortus.server.run.records import RoundRecord
from hortus.server.run.store import RunStore

SITES = ("ash", "birch", "cedar", "dogwood")
DELTA = 1e-3


def make_plan(noise: str = "distributed", rounds: int = 2, **changes: Any) -> Plan:
    """A plan for `SITES`."""
    bare = noise == "unsafe_none"
    fields: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "model": "model",
        "task": {"labels": ["a", "b"]},
        "training": {"rounds": rounds, "sampling_rate": 0.5, "nominal_units": 60},
        "privacy": {"noise": noise, "epsilon": None if bare else 50.0, "delta": DELTA},
        "simulation": {"sites": {site: f"/{site}.csv" for site in SITES}},
    }
    return plan_file.make_plan(fields | changes)


def make_contract(plan: Plan) -> Contract:
    """Its contract, for a model that is not there."""
    bare = plan.privacy.epsilon is None
    return plan.contract(model_digest="c" * 64, noise_multiplier=None if bare else 2.0)


def classified(
    accuracy: float, macro_f1: float | None = None, chance: float | None = None
) -> Metrics:
    """What a classification task measures."""
    guess = None if chance is None else Chance(chance, "always naming the most frequent label")
    first = Metric("accuracy", accuracy, Unit.PERCENT, Better.HIGHER, primary=True, chance=guess)
    if macro_f1 is None:
        return (first,)
    return first, Metric("macro_f1", macro_f1, Unit.PERCENT, Better.HIGHER, label="macro F1")


def by_label(accuracy: float, scores: Mapping[str, float | None]) -> Metrics:
    """The same with the F1 of each label."""
    first, macro = classified(accuracy, 0.4)
    parts = tuple(Part(label, 20, score) for label, score in scores.items())
    return first, replace(macro, breakdown=Breakdown("F1", "label", "records", parts))


def generated(
    perplexity: float | None, rouge: float = 31.25, chance: float | None = None
) -> Metrics:
    """What a task may measure that generates text: the primary metric comes last, and lower is better."""
    guess = None if chance is None else Chance(chance, "always the words' own frequencies")
    return (
        Metric("rouge_l", rouge, Unit.POINTS, Better.HIGHER, label="ROUGE-L"),
        Metric(
            "perplexity",
            perplexity,
            Unit.NUMBER,
            Better.LOWER,
            primary=True,
            meaning="Among how many words the model is as uncertain as if it had to guess.",
            chance=guess,
        ),
    )


def make_round(
    number: int,
    sites: Iterable[str] = SITES,
    attempts: int = 2,
    metrics: Metrics | None = None,
    *,
    bare: bool = False,
) -> RoundRecord:
    """A round of one sum."""
    reached = classified(1 - 0.5 ** (number + 1), 0.4)
    return RoundRecord(
        round=number,
        sites=tuple(sites),
        attempts=attempts,
        sums=1,
        epsilon=None if bare else number + 1.0,
        metrics=reached if metrics is None else metrics,
    )


def make_store(directory: Path, contract: Contract, rounds: int) -> RunStore:
    """The server's half of a run."""
    store = RunStore(directory, contract)
    bare = contract.privacy.noise_multiplier is None
    for number in range(rounds):
        store.commit(make_round(number, bare=bare), {})
    return store


def write_adapter_of(directory: Path, number: int) -> None:
    """What says in a run's folder of which round, from 1, its adapter is."""
    (directory / "adapter").mkdir(exist_ok=True)
    (directory / "adapter" / "hortus.json").write_text(json.dumps({"round": number}))


def make_consortium(directory: Path, *, bare: bool = False) -> Consortium:
    """The sites' folders, in a run's."""
    policy = Policy(budget=Budget(epsilon=7.25, delta=DELTA), unsafe_no_privacy=bare)
    return create_consortium(
        directory / "consortium",
        {site: Path(f"/{site}.csv") for site in SITES},
        dict.fromkeys(SITES, policy),
        ServerConfig(aggregation="127.0.0.1:0", superlink="127.0.0.1:0"),
        datetime.now(UTC),
    )


def release(
    consortium: Consortium, site: str, contract: Contract, run: str, rounds: Iterable[int]
) -> None:
    """Charges a site's ledger for one sum in each round."""
    files = consortium.site(site)
    identity = Identity.load(files.identity, site)
    bare = contract.privacy.noise_multiplier is None
    with closing(Ledger.open(files.ledger, identity, lambda: 1.8e9)) as ledger:
        for number in rounds:
            charge = Charge(
                run=run,
                session="1" * 32,
                round=number,
                step=number,
                attempt=0,
                dataset="d" * 64,
                unit="record",
                mode=contract.privacy.noise.value,
                mechanism=(Added.NOTHING if bare else Added.GAUSSIAN).value,
                sampling_rate=0.5,
                noise_multiplier=contract.privacy.noise_multiplier or 0.0,
                clipping_norm=1.0,
                releases=1,
                delta=DELTA,
                plan=contract.digest(),
            )
            ledger.charge(charge, None if bare else Budget(epsilon=50.0, delta=DELTA))


def spent(consortium: Consortium, site: str) -> list[float]:
    """ε after each entry of a site's ledger."""
    files = consortium.site(site)
    identity = Identity.load(files.identity, site)
    with closing(Ledger.open(files.ledger, identity, lambda: 0.0)) as ledger:
        bodies = [entry.body for entry in ledger.entries()]
        return [body.epsilon_after for body in bodies if isinstance(body, Charged)]
