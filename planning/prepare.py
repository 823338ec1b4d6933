"""From a plan to the contract that sites are asked to approve: the noise and the model pinned."""

from pathlib import Path

from hortus.learning.models.folder import model_digest, resolve_model
from hortus.privacy.accounting.accountant import calibrate_noise_multiplier
from hortus.privacy.gradients.workbench import Workbench
from hortus.protocol.plan import Contract, Noise, Plan
from hortus.strategies.server_optimizer import check_optimizer

_tried: set[str] = set()  # what this process knows to fit together


def prepare(plan: Plan, folder: Path) -> tuple[Contract, Path]:
    """Fills in a plan.

    Args:
        plan: The plan.
        folder: Where a relative model folder is looked for.

    Returns:
        The contract and the folder of the base model.

    Raises:
        UsageError: The model is not there or not what its folder says, plan and model do not fit together,
            an optimiser does not take its options, or no noise reaches the ε asked for.
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
    contract = plan.contract(model_digest=model_digest(path), noise_multiplier=noise_multiplier)
    _try_model(contract, path)
    return contract, path


def _try_model(contract: Contract, path: Path) -> None:
    """Refuses a model that would fail at some site, with some records, or be another one there."""
    what = (contract.model_digest, contract.task, contract.adapter, contract.training.precision)
    key = repr((*what, contract.privacy.max_records_per_unit, contract.training.micro_batch))
    if key not in _tried:
        Workbench(contract, path, shares_passes=False)
        _tried.add(key)
