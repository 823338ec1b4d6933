"""The proximal term is post-processing: it holds a site near its start, at no cost."""

from typing import Any

import numpy as np
import pytest
from helpers.quadratic import CENTRES, START, Site, contract_with, trained
from pydantic import ValidationError

from hortus.privacy.accounting.forecast import PlanCost
from hortus.strategies.fedprox import FedProx
from hortus.strategies.optimizers.torch_optim import SGD

STEPS = 4
LOCAL = {"noise": "local", "noise_multiplier": 1.0}


def section(kind: str, optimizer: str = "SGD", **fields: float) -> dict[str, Any]:
    return {"kind": kind, "local_optimizer": {"kind": optimizer, "learning_rate": 0.1}, **fields}


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "RMSprop"])
def test_with_mu_0_it_is_fedavg_bit_for_bit(optimizer: str) -> None:
    averaged, state = trained(contract_with(section("fedavg", optimizer), STEPS), 4)
    proximal, same = trained(contract_with(section("fedprox", optimizer, mu=0.0), STEPS), 4)
    assert proximal.tobytes() == averaged.tobytes()
    assert all(value.equal(same[name]) for name, value in state.items())
    other, _ = trained(contract_with(section("fedprox", optimizer, mu=0.5), STEPS), 4)
    assert other.tobytes() != averaged.tobytes()


def test_it_costs_what_fedavg_costs_whatever_mu_is() -> None:
    costs = [
        PlanCost.of(Site(contract, CENTRES[0]).encoding.event, contract)
        for contract in (
            contract_with(section("fedavg"), STEPS, **LOCAL),
            *(contract_with(section("fedprox", mu=mu), STEPS, **LOCAL) for mu in (0.0, 0.01, 1e6)),
        )
    ]
    assert costs == [costs[0]] * 4
    assert costs[0].per_attempt == STEPS


def test_its_term_depends_on_no_record() -> None:
    """Whatever the private gradient, the term adds the same to it; at the start it adds nothing."""
    strategy = FedProx(local_optimizer=SGD(), mu=0.5)
    adapter = START + np.float32(1.5)
    added = [
        strategy.gradient(private, adapter, START) - private
        for private in (np.zeros(4), np.arange(4.0), np.full(4, -1e3))
    ]
    for term in added:
        np.testing.assert_allclose(term, 0.5 * 1.5 * np.ones(4), rtol=1e-12)
    assert np.array_equal(strategy.gradient(np.arange(4.0), START, START), np.arange(4.0))


def test_a_larger_mu_keeps_a_site_nearer_to_its_start() -> None:
    lengths = []
    for mu in (0.0, 0.1, 1.0, 5.0):
        site = Site(contract_with(section("fedprox", mu=mu), STEPS), CENTRES[0])
        lengths.append(np.linalg.norm(site.vector(START).astype(np.int32)))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < 0.6 * lengths[0]


@pytest.mark.parametrize("mu", [-0.1, float("inf"), float("nan")])
def test_a_term_that_drives_a_site_away_is_refused(mu: float) -> None:
    with pytest.raises(ValidationError, match="mu"):
        FedProx(local_optimizer=SGD(), mu=mu)
