"""What holds of every strategy and of every optimiser, whoever wrote it: a new kind is in here with its name."""

import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from helpers.quadratic import CENTRES, START, Site, contract_with, plan_with, trained
from numpy.typing import NDArray

from hortus.planning.plan_file import load_plan
from hortus.privacy.audit.auditor import audit
from hortus.privacy.audit.evidence import collect
from hortus.protocol.plan import Contract
from hortus.protocol.section import Section
from hortus.runtime.errors import HortusError, UsageError
from hortus.simulation.simulate import simulate
from hortus.strategies.base import Strategy
from hortus.strategies.kinds import STRATEGIES, strategy_of
from hortus.strategies.optimizers.base import Optimizer
from hortus.strategies.optimizers.kinds import OPTIMIZERS

RATE, LOCAL_RATE, MOMENTUM, MU = 0.4, 0.125, 0.5, 0.75
# Values of fields other than optimisers, where the default would hide something.
VALUES: dict[str, dict[str, Any]] = {"fedprox": {"mu": MU}}
Vector = NDArray[np.float64]

# What a site makes of its own loss at a start, in plain numbers: the direction that the server steps in.
DIRECTIONS: dict[str, Callable[[Vector, Vector, int], Vector]] = {
    "fedsgd": lambda start, centre, _: start - centre,
    "fedavg": lambda start, centre, steps: start - moved(start, centre, steps),
    "fedprox": lambda start, centre, steps: start - moved(start, centre, steps, MU),
}


def moved(start: Vector, centre: Vector, steps: int, mu: float = 0.0) -> Vector:
    """Gradient descent on ½‖w − centre‖² + μ/2·‖w − start‖²."""
    adapter = start
    for _ in range(steps):
        adapter = adapter - LOCAL_RATE * (adapter - centre + mu * (adapter - start))
    return adapter


def written(name: str) -> dict[str, Any]:
    """A section as a plan has it: the least that the kind asks for, and optimisers that are easy to follow."""
    fields: dict[str, Any] = {"kind": name} | VALUES.get(name, {})
    for field, info in STRATEGIES.kind(name).model_fields.items():
        is_optimizer = any(
            isinstance(part, type) and issubclass(part, Optimizer)
            for part in (info.annotation, *get_args(info.annotation))
        )
        if is_optimizer and field == "server_optimizer":
            options = {"momentum": MOMENTUM}
            fields[field] = {"kind": "SGD", "learning_rate": RATE, "options": options}
        elif is_optimizer:
            fields[field] = {"kind": "SGD", "learning_rate": LOCAL_RATE}
    return fields


def is_a_sentence(text: str) -> bool:
    return text[:1].isupper() and text.endswith(".") and text.isprintable()


def steps_of(name: str) -> int:
    return 1 if STRATEGIES.kind(name).sums_releases else 3


every_strategy = pytest.mark.parametrize("name", STRATEGIES.names())
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS.names())


@every_strategy
def test_a_section_comes_back_as_it_went(name: str) -> None:
    kind = STRATEGIES.complete(written(name))
    assert STRATEGIES.parse(kind.section) == kind
    assert kind.section.kind == kind.kind == name
    contract = contract_with(written(name), steps_of(name))
    again = Contract.model_validate_json(contract.model_dump_json())
    assert again.digest() == contract.digest()
    assert strategy_of(again) == kind
    assert {"kind", *kind.optimizers} <= kind.section.fields.keys()


@every_strategy
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"server_optimzer": {"kind": "SGD"}}, "did you mean server_optimizer"),
        ({"server_optimizer": {"kind": "Adm"}}, "strategy.server_optimizer.kind: .*'Adam'"),
        (
            {"server_optimizer": {"kind": "SGD", "learning_rate": 0}},
            "server_optimizer.learning_rate",
        ),
        (
            {"server_optimizer": {"learning_rate": 1.0}},
            "strategy.server_optimizer: .*whose `kind` names",
        ),
        ({"server_optimizer": "SGD"}, "strategy.server_optimizer: .*SGD"),
    ],
    ids=["key", "optimizer", "rate", "no kind", "text"],
)
def test_what_is_wrong_in_a_section_is_named(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        STRATEGIES.complete(written(name) | changes)


@every_strategy
def test_a_contract_that_leaves_something_open_is_refused(name: str) -> None:
    fields = STRATEGIES.complete(written(name)).section.fields
    for field in fields.keys() - {"kind"}:
        with pytest.raises(HortusError):
            STRATEGIES.parse(Section(**{k: v for k, v in fields.items() if k != field}))
    server = {"kind": "Adam"}  # its rate and options are left open
    with pytest.raises(HortusError, match="server_optimizer"):
        STRATEGIES.parse(Section(**fields | {"server_optimizer": server}))


@every_strategy
def test_it_is_explained_and_says_what_a_stranger_may_choose(name: str) -> None:
    kind = STRATEGIES.complete(written(name))
    assert is_a_sentence(kind.words)
    assert is_a_sentence((type(kind).__doc__ or "").splitlines()[0])
    stated = {field for field in type(kind).model_fields if field in kind.unread}
    # The optimiser of a site has limits of its own: auto_approve.local_optimizers and local_options.
    assert type(kind).model_fields.keys() - stated <= {"kind", "local_optimizer"}


@every_strategy
@pytest.mark.parametrize(
    ("noise", "steps", "rule"),
    list(product(("distributed", "local"), (1, 2), ("flat", "adaptive"))),
)
def test_it_fits_only_plans_that_it_is_sound_for(
    name: str, noise: str, steps: int, rule: str
) -> None:
    """A site that looks at its own steps needs its own noise; a sum of releases is of one step."""
    sums_releases = STRATEGIES.kind(name).sums_releases
    wrong = steps > 1 if sums_releases else noise == "distributed" or rule == "adaptive"
    privacy = {"noise": noise, "noise_multiplier": 1.0, "clipping": {"kind": rule}}
    if not wrong:
        strategy_of(plan_with(written(name), steps, **privacy))
        return
    with pytest.raises(UsageError, match="training.local_steps|privacy.noise|privacy.clipping"):
        plan_with(written(name), steps, **privacy)


@every_strategy
def test_its_two_halves_do_what_the_formula_says(name: str) -> None:
    adapter, steps = START.astype(np.float64), steps_of(name)
    velocity = np.zeros(len(START))
    for _ in range(4):
        each = [DIRECTIONS[name](adapter, centre, steps) for centre in CENTRES]
        velocity = MOMENTUM * velocity + np.mean(each, axis=0)
        adapter = adapter - RATE * velocity
    found, _ = trained(contract_with(written(name), steps), 4)
    assert np.abs(adapter - START).max() > 0.1
    assert found == pytest.approx(adapter, abs=2e-6)


@every_strategy
@pytest.mark.parametrize("noise", ["unsafe_none", "local"])
def test_it_takes_the_steps_that_are_charged_and_no_more(name: str, noise: str) -> None:
    privacy = {} if noise == "unsafe_none" else {"noise": noise, "noise_multiplier": 1.0}
    contract = contract_with(written(name), steps_of(name), **privacy)
    site = Site(contract, CENTRES[0])
    site.vector(START)
    assert site.taken == list(range(contract.training.local_steps))
    assert site.released == (site.taken if privacy else [])


@every_strategy
def test_no_site_looks_at_a_step_that_the_noise_of_others_protects(name: str) -> None:
    """Even where nobody has asked whether strategy and plan fit."""
    kind = STRATEGIES.complete(written(name))
    contract = contract_with({"kind": "fedsgd"}, noise="distributed", noise_multiplier=1.0)
    site = Site(contract, CENTRES[0])
    if kind.sums_releases:
        kind.local(site.steps(START))
        assert site.released == [0]
        return
    with pytest.raises(HortusError, match="may not look at its own step"):
        kind.local(site.steps(START))
    assert site.taken == []


@every_strategy
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_a_server_that_starts_again_resumes_with_the_same_bits(name: str, optimizer: str) -> None:
    section = written(name) | {"server_optimizer": {"kind": optimizer, "learning_rate": 0.1}}
    contract = contract_with(section, steps_of(name))
    whole, _ = trained(contract, 5)
    cut, state = trained(contract, 2)
    resumed, _ = trained(contract, 3, state)
    assert resumed.tobytes() == whole.tobytes()
    assert cut.tobytes() != whole.tobytes()


@every_strategy
def test_what_the_ledgers_book_is_what_the_plan_says(
    write_plan: Any, tmp_path: Path, name: str
) -> None:
    training = {"rounds": 2, "steps_per_round": 2, "local_steps": steps_of(name)}
    noise = "distributed" if STRATEGIES.kind(name).sums_releases else "local"
    path = write_plan(
        training=training, strategy=written(name), privacy={"noise": noise, "epsilon": 50.0}
    )
    plan = load_plan(path)
    result = simulate(plan, path, tmp_path / "run", lambda *_: None)
    for site in result.consortium.sites:
        evidence = collect(result.consortium.site(site), site)
        audited = audit(evidence, evidence.roster)
        assert audited.first_broken is None
        assert [row.releases for row in audited.rounds] == [plan.training.releases_per_round] * 2
        assert audited.rounds[-1].epsilon_so_far == pytest.approx(
            result.store.rounds[-1].epsilon, abs=1e-9
        )
    assert plan.training.releases_per_round == 2 * steps_of(name)
    assert result.adapter.any()


@every_optimizer
def test_an_optimizer_comes_back_as_it_went_and_descends(name: str) -> None:
    kind = OPTIMIZERS.complete({"kind": name, "learning_rate": 0.05})
    assert OPTIMIZERS.parse(kind.section) == kind
    kind.try_out("strategy.server_optimizer")
    optimizer = kind.over(START)
    far = [np.linalg.norm(optimizer.adapter - CENTRES[0])]
    for _ in range(50):
        adapter = optimizer.step(optimizer.adapter.astype(np.float64) - CENTRES[0])
        far.append(np.linalg.norm(adapter - CENTRES[0]))
    assert far[-1] < 0.9 * far[0]


@every_optimizer
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": -1}, "learning_rate: -1"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"learning_rte": 1.0}, "did you mean learning_rate"),
        ({"kind": "Adamm"}, "Did you mean 'Adam"),
    ],
    ids=["negative", "infinite", "key", "kind"],
)
def test_what_is_wrong_in_an_optimizer_is_named(
    name: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        OPTIMIZERS.complete({"kind": name} | changes)


@every_optimizer
def test_an_optimizer_says_what_a_stranger_may_choose(name: str) -> None:
    kind = OPTIMIZERS.kind(name)
    assert is_a_sentence((kind.__doc__ or "").splitlines()[0])
    # Options have a limit of their own: auto_approve.local_options.
    assert kind.model_fields.keys() - kind.unread.keys() <= {"kind", "options"}


@pytest.mark.parametrize(
    "options", [{"momentun": 0.9}, {"momentum": -1.0}, {"differentiable": True}], ids=str
)
def test_options_that_an_optimizer_does_not_take_are_found_before_training(
    options: dict[str, bool | float],
) -> None:
    kind = OPTIMIZERS.complete({"kind": "SGD", "options": options})
    with pytest.raises(UsageError, match=r"^strategy.local_optimizer: SGD: "):
        kind.try_out("strategy.local_optimizer")


@pytest.mark.parametrize(
    ("section", "name", "rate"),
    [
        ({}, "Adam", 0.02),
        ({"server_optimizer": {"kind": "SGD"}}, "SGD", 1.0),
        ({"server_optimizer": {"kind": "Adagrad"}}, "Adagrad", 0.02),
        ({"kind": "fedavg", "local_optimizer": {"kind": "SGD"}}, "SGD", 1.0),
        ({"kind": "fedavg", "local_optimizer": {"kind": "Adam"}}, "SGD", 1.0),
    ],
)
def test_the_default_steps_suit_what_is_summed(
    section: dict[str, Any], name: str, rate: float
) -> None:
    optimizer = STRATEGIES.complete(section).server_optimizer
    assert (optimizer.kind, optimizer.learning_rate) == (name, rate)


def test_to_read_a_plan_of_any_kind_takes_neither_torch_nor_numpy() -> None:
    program = """
import sys
from hortus.strategies.kinds import STRATEGIES
from hortus.strategies.optimizers.kinds import OPTIMIZERS
for registry in (STRATEGIES, OPTIMIZERS):
    for name in registry.names():
        registry.kind(name)
assert not {"torch", "numpy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_strategy_has_a_formula_here() -> None:
    assert DIRECTIONS.keys() == set(STRATEGIES.names())
    assert all(issubclass(STRATEGIES.kind(name), Strategy) for name in STRATEGIES.names())
