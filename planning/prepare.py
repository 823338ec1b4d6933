"""From a plan to the contract that sites are asked to approve: the noise and the model pinned."""

from pathlib import Path

from hortus.learning.models.folder import model_digest, resolve_model
from hortus.privacy.accounting.accountant import calibrate_noise_multiplier
from hortus.privacy.gradients.workbench import Workbench
from hortus.protocol.plan import Contract, Noise, Plan
from hortus.strategies.kinds import strategy_of

_dimensions: dict[str, int] = {}  # of adapters that this process knows to fit their model


def prepare(plan: Plan, folder: Path) -> tuple[Contract, Path]:
    """Fills in a plan, and tries its model: see `pin` and `adapter_dimension`."""
    contract, path = pin(plan, folder)
    adapter_dimension(contract, path)
    return contract, path


def pin(plan: Plan, folder: Path) -> tuple[Contract, Path]:
    """Fills in a plan. The model is not loaded yet: who makes a `Workbench` of it tries it by that.

    Args:
        plan: The plan.
        folder: Where a relative model folder is looked for.

    Returns:
        The contract and the folder of the base model.

    Raises:
        UsageError: The model is not there, an optimiser does not take its options, or no noise reaches the
            ε asked for.
    """
    path = resolve_model(plan.model, folder)
    for name, optimizer in strategy_of(plan).optimizers.items():
        optimizer.try_out(f"strategy.{name}")
    noise_multiplier = plan.privacy.noise_multiplier
    if plan.privacy.epsilon is not None:
        noise_multiplier = calibrate_noise_multiplier(
            plan.privacy.epsilon, plan.privacy.delta, plan.training.sampling_rate, plan.releases
        )
    if plan.privacy.noise is Noise.UNSAFE_NONE:
        noise_multiplier = None
    return plan.contract(model_digest=model_digest(path), noise_multiplier=noise_multiplier), path


def adapter_dimension(contract: Contract, path: Path) -> int:
    """Tries a contract's model; returns the number of adapter parameters.

    Raises:
        UsageError: The model is not what its folder says, or would fail at some site with some records.
    """
    what = (contract.model_digest, contract.task, contract.adapter, contract.training.precision)
    key = repr((*what, contract.privacy.max_records_per_unit, contract.training.micro_batch))
    if key not in _dimensions:
        _dimensions[key] = Workbench(contract, path, shares_passes=False).space.dimension
    return _dimensions[key]
