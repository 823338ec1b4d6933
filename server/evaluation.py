"""The server's own copy of the model: the initial adapter, and tests on public records."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hortus.learning.data.records import read_records
from hortus.learning.methods.adapter_files import write_template
from hortus.learning.methods.adapters import AdapterSpace, attach
from hortus.learning.models.encoder import default_device
from hortus.learning.models.loading import load_base
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.classification import TextClassification
from hortus.learning.tasks.classification_metrics import evaluate
from hortus.protocol.plan import Agreement


class Evaluator:
    """A model that adapters are written into to be measured or saved.

    Args:
        plan: What is trained.
        model_path: Folder of the base model.
        records: File of public evaluation records, or None.
        workers: Passes at once; None: as many as a process of one party runs.

    Attributes:
        initial_adapter: float32[d], what training starts from.
    """

    initial_adapter: NDArray[np.float32]

    def __init__(
        self, plan: Agreement, model_path: Path, records: Path | None, workers: int | None = None
    ) -> None:
        base = load_base(model_path, plan.task, plan.training.precision)
        self._model = attach(base, plan.adapter, plan.seed).to(default_device())
        self._space = AdapterSpace(self._model)
        self.initial_adapter = self._space.read(self._model)
        self._micro_batch = plan.training.micro_batch
        self._task = TextClassification(
            plan.task, load_tokenizer(model_path), base, plan.adapter, self._micro_batch
        )
        if workers is not None:
            self._task.workers = workers
        self._records = self._task.encode(read_records(records, plan.task)) if records else None

    def measure(self, adapter: NDArray[np.float32]) -> dict[str, float]:
        """Returns accuracy, macro F1 and loss of an adapter, float32[d]; empty without records."""
        if self._records is None:
            return {}
        self._space.write(self._model, adapter)
        metrics = evaluate(self._model, self._task, self._records, self._micro_batch)
        return {"accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1, "loss": metrics.loss}

    def write_template(self, directory: Path) -> None:
        """Writes what an adapter's folder is filled in from."""
        write_template(directory, self._model, self._space)
