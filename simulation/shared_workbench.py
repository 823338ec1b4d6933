"""One base model for everything that a process trains: with privacy, without, and each site alone."""

from pathlib import Path

from hortus.privacy.gradients.workbench import Workbench, made_of
from hortus.protocol.plan import Contract


class SharedWorkbench:
    """Keeps the last workbench: loading and checking a model takes seconds, and holding two memory."""

    def __init__(self) -> None:
        self._last: tuple[tuple[object, ...], Workbench] | None = None

    def of(self, contract: Contract, path: Path) -> Workbench:
        """Returns a contract's workbench: the last one where it would be made alike.

        Args:
            contract: What to train.
            path: Folder of the base model.

        Raises:
            UsageError: Plan, model, tokenizer and memory do not fit together.
        """
        key = made_of(contract, contract.model_digest)
        if self._last is None or self._last[0] != key:
            self._last = None  # before the other one is loaded
            self._last = (key, Workbench(contract, path))
        return self._last[1]
