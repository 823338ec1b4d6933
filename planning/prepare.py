"""From a plan to the contract that sites are asked to approve: the noise and the model pinned."""

from pathlib import Path
from typing import NamedTuple

from hortus.learning.models.folder import model_digest, resolve_model
from hortus.privacy.accounting.accountant import calibrate_noise_multiplier, epsilon
from hortus.privacy.accounting.accountants.kinds import ACCOUNTANTS
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.gradients.workbench import Workbench, made_of
from hortus.protocol.plan import Contract, Plan
from hortus.protocol.privacy import Noise
from hortus.runtime.errors import UsageError
from hortus.strategies.kinds import strategy_of


class Trial(NamedTuple):
    """What was found out of an adapter that fits its model.

    Attributes:
        dimension: Its parameters.
        kept_bytes: What a site keeps of a record's states at most; see `Loader.kept_bytes`.
    """

    dimension: int
    kept_bytes: int


_trials: dict[str, Trial] = {}  # that this process has made


def prepare(plan: Plan, folder: Path) -> tuple[Contract, Path]:
    """Fills in a plan, and tries its model: see `pin` and `trial`."""
    contract, path = pin(plan, folder)
    trial(contract, path)
    return contract, path


def pin(plan: Plan, folder: Path) -> tuple[Contract, Path]:
    """Fills in a plan without loading the model; whoever makes a `Workbench` of it tries it.

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
        noise_multiplier = noise_for(plan, plan.privacy.epsilon, plan.releases)
    if plan.privacy.noise is Noise.UNSAFE_NONE:
        noise_multiplier = None
    return plan.contract(model_digest=model_digest(path), noise_multiplier=noise_multiplier), path


def noise_for(plan: Plan, target: float, releases: int) -> float:
    """Returns the smallest noise multiplier with which a plan's accountant bounds this many releases by ε.

    Raises:
        UsageError: No noise does, or the accountant claims less than what ledgers charge.
    """
    privacy, rate = plan.privacy, plan.training.sampling_rate
    accountant = ACCOUNTANTS.parse(privacy.accountant)
    found = calibrate_noise_multiplier(target, privacy.delta, rate, releases, accountant.epsilon)
    charged = epsilon({GaussianEvent(rate, found): releases}, privacy.delta)
    if charged > target:
        raise UsageError(
            f"with the noise that {accountant.kind} chooses for ε = {target:g}, a site would be charged ε = "
            f"{charged:.4g}",
            where="privacy.accountant",
            remedy="Use privacy.accountant: {kind: pld}.",
        )
    return found


def trial(contract: Contract, path: Path) -> Trial:
    """Tries a contract's model.

    Raises:
        UsageError: The model is not what its folder says, or would fail at some site with some records.
    """
    key = repr(made_of(contract, contract.model_digest))
    if key not in _trials:
        tried = Workbench(contract, path, shares_passes=False)
        _trials[key] = Trial(tried.space.dimension, tried.loader.kept_bytes)
    return _trials[key]
