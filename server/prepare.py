"""From a plan to the contract that sites are asked to approve: the noise and the model pinned."""

from pathlib import Path

from hortus.learning.models import model_digest, resolve_model
from hortus.privacy.accounting import calibrate_noise_multiplier
from hortus.protocol.plan import Contract, Noise, Plan
from hortus.strategies.server_optimizer import check_optimizer


def prepare(plan: Plan, folder: Path) -> tuple[Contract, Path]:
    """Fills in a plan.

    Args:
        plan: The plan.
        folder: Where a relative model folder is looked for.

    Returns:
        The contract and the folder of the base model.

    Raises:
        UsageError: The model is not there, an optimiser does not take its options, or no noise reaches
            the ε asked for.
    """
    path = resolve_model(plan.model, folder)
    check_optimizer(plan.training.server_optimizer, "training.server_optimizer")
    if plan.training.local_optimizer is not None:
        check_optimizer(plan.training.local_optimizer, "training.local_optimizer")
    noise_multiplier = plan.privacy.noise_multiplier
    if plan.privacy.epsilon is not None:
        noise_multiplier = calibrate_noise_multiplier(
            plan.privacy.epsilon, plan.privacy.delta, plan.training.sampling_rate, plan.releases
        )
    if plan.privacy.noise is Noise.UNSAFE_NONE:
        noise_multiplier = None
    return plan.contract(model_digest=model_digest(path), noise_multiplier=noise_multiplier), path
