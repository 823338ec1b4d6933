"""What federated averaging is beside its formula, which `test_every_strategy` has."""

import numpy as np
from helpers.quadratic import CENTRES, START, Site, contract_with, trained

LOCAL = {"kind": "SGD", "learning_rate": 0.25, "options": {"momentum": 0.9}}


def test_a_sites_optimizer_starts_afresh_for_each_sum() -> None:
    """A site that was not in the last sum is as good as one that was: it carries nothing over."""
    contract = contract_with({"kind": "fedavg", "local_optimizer": LOCAL}, 3)
    veteran, newcomer = Site(contract, CENTRES[0]), Site(contract, CENTRES[0])
    veteran.vector(START)
    again = START + np.float32(0.5)
    assert veteran.vector(again).tobytes() == newcomer.vector(again).tobytes()


def test_one_step_of_rate_1_is_gradient_descent() -> None:
    """FedSGD and FedAvg meet where sites take one plain step, and the server the mean of them."""
    one = {"kind": "SGD", "learning_rate": 1.0}
    averaged, _ = trained(contract_with({"kind": "fedavg", "local_optimizer": one}), 1)
    descended, _ = trained(contract_with({"kind": "fedsgd", "server_optimizer": one}), 1)
    np.testing.assert_allclose(averaged, descended, atol=1e-6)
    np.testing.assert_allclose(averaged, np.mean(CENTRES, axis=0), atol=1e-6)
