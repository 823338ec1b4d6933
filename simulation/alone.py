"""What a site reaches alone, without privacy: the model that federation has to beat."""

from hortus.client.trainer import Trainer, untimed
from hortus.learning.data.records import Records
from hortus.privacy.gradients.workbench import Workbench
from hortus.privacy.noise.randomness import UnsafeSeededRandomness
from hortus.privacy.step import PrivateStep
from hortus.protocol.plan import Contract, Plan
from hortus.runtime.metric import Metrics
from hortus.server.evaluation import Evaluator
from hortus.simulation.local_sum import LocalSum
from hortus.strategies.loop import steps
from hortus.strategies.server_state import ServerState


def without_privacy(plan: Plan) -> Plan:
    """Returns the same plan with no noise and no clipping, for comparison in simulation."""
    fields = plan.model_dump()
    private = ("epsilon", "noise_multiplier", "spare_attempts")
    fields["privacy"] |= {"noise": "unsafe_none"} | dict.fromkeys(private)
    return Plan(**fields)


def train_alone(
    contract: Contract, records: Records, name: str, workbench: Workbench, evaluator: Evaluator
) -> Metrics:
    """Trains on one site's records with a contract's steps; returns its metrics.

    Args:
        contract: Without privacy.
        records: The site's.
        name: The site's name, which its sampling is seeded with.
        workbench: The warm model.
        evaluator: Measures the result.
    """
    encoding = PrivateStep.of(contract, workbench.space.dimension, cohort=1)
    randomness = UnsafeSeededRandomness(contract.seed, name)
    trainer = Trainer(encoding, workbench, workbench.loader.encode(records), randomness, untimed)
    trained = ServerState(contract, workbench.initial_adapter)
    add_up = LocalSum({name: trainer}, encoding.words)
    for _ in steps(trained, encoding, range(contract.sums), add_up):
        pass
    return evaluator.measure(trained.adapter)
