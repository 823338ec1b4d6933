"""What the server does with the model: the initial adapter, and tests on public records."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hortus.learning.data.records import read_records
from hortus.learning.methods import adapter_files
from hortus.learning.warm_model import WarmModel
from hortus.runtime.metric import Metrics


class Evaluator:
    """Measures adapters on public records, and saves their layout.

    Args:
        warm: The model; a simulation's sites train on the same one.
        records: File of public evaluation records, or None.
    """

    def __init__(self, warm: WarmModel, records: Path | None) -> None:
        self._warm = warm
        # Of its own: records share passes here whatever a site's check finds, so that a simulation
        # measures what a deployment does, to the last bit.
        self._loader = warm.another_loader()
        self._loader.workers = warm.loader.workers
        self._records = self._loader.encode(read_records(records, warm.task)) if records else None

    @property
    def initial_adapter(self) -> NDArray[np.float32]:
        """float32[d], what training starts from."""
        return self._warm.initial_adapter

    def measure(self, adapter: NDArray[np.float32]) -> Metrics:
        """Returns what the task measures of an adapter, float32[d]; empty without records."""
        if self._records is None:
            return ()
        with self._warm.holding(adapter) as model:
            return self._loader.measure(model, self._records)

    def write_template(self, directory: Path) -> None:
        """Writes what an adapter's folder is filled in from."""
        with self._warm.holding(self.initial_adapter):
            adapter_files.write_template(
                directory, self._warm.model, self._warm.space, self._warm.base, self._warm.tokenizer
            )
