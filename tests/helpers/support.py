"""Which task works with which family of models: each cell is a site's own start, and an oracle for its gradients."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from helpers.tiny_models import ARCHITECTURES, CHAT, Architecture

from hortus.learning.data.records import Records
from hortus.learning.loader import Encoded
from hortus.learning.methods.lora import LoRA
from hortus.learning.tasks.base import Task
from hortus.privacy.gradients.workbench import Workbench
from hortus.protocol.plan import Contract, Plan, Training
from hortus.protocol.privacy import Privacy
from hortus.runtime.errors import UsageError
from hortus.strategies.fedsgd import FedSGD
from tests.learning.test_every_task import SAMPLES

ENCODES = {"mask_token": "[MASK]", "eos_token": "[SEP]"}
CHOICES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "head": {"sentence": {}, "sequence": {}},
    "architecture": {"encoder-decoder": {}, "decoder": {"template": "{source} is"}},
}


@dataclass(frozen=True)
class Family:
    """Models of one architecture, as their checkpoints are usually published.

    Attributes:
        architecture: Of `ARCHITECTURES`.
        model: The class that saved the checkpoint.
        decodes: Whether its tokenizer is a decoder's, with a chat template.
    """

    architecture: str
    model: str
    decodes: bool = False

    @property
    def made(self) -> Architecture:
        """Its architecture with that class."""
        return replace(ARCHITECTURES[self.architecture], model=self.model)

    def save(self, directory: Path) -> Path:
        """Saves a random one, once."""
        if not directory.exists():
            self.made.save(directory, **(CHAT if self.decodes else ENCODES))
        return directory


FAMILIES: Mapping[str, Family] = {
    "Llama": Family("llama", "LlamaForCausalLM", decodes=True),
    "Mistral": Family("mistral", "MistralForCausalLM", decodes=True),
    "Qwen 2": Family("qwen2", "Qwen2ForCausalLM", decodes=True),
    "Qwen 3": Family("qwen3", "Qwen3ForCausalLM", decodes=True),
    "Gemma 2": Family("gemma2", "Gemma2ForCausalLM", decodes=True),
    "Gemma 3": Family("gemma3", "Gemma3ForCausalLM", decodes=True),
    "Phi": Family("phi", "PhiForCausalLM", decodes=True),
    "Phi 3": Family("phi3", "Phi3ForCausalLM", decodes=True),
    "GPT-2": Family("gpt2", "GPT2LMHeadModel", decodes=True),
    "OPT": Family("opt", "OPTForCausalLM", decodes=True),
    "BERT": Family("bert", "BertForMaskedLM"),
    "RoBERTa": Family("roberta", "RobertaForMaskedLM"),
    "DistilBERT": Family("distilbert", "DistilBertForMaskedLM"),
    "DeBERTa": Family("deberta", "DebertaV2ForMaskedLM"),
    "ModernBERT": Family("modernbert", "ModernBertForMaskedLM"),
    "ALBERT": Family("albert", "AlbertForMaskedLM"),
    "ELECTRA": Family("electra", "ElectraForMaskedLM"),
    "T5": Family("t5", "T5ForConditionalGeneration"),
    "BART": Family("bart", "BartForConditionalGeneration"),
}


class Row(NamedTuple):
    """A task, and records of it."""

    task: Task
    values: tuple[Any, ...]


def rows() -> dict[str, Row]:
    """Returns the tasks by what the table calls them; one with a choice of models is there with each."""
    found = {}
    for name, (task, values, _) in SAMPLES.items():
        field = next((one for one in CHOICES if one in type(task).model_fields), None)
        if field is None:
            found[name] = Row(task, values)
            continue
        for choice, more in CHOICES[field].items():
            varied = task.model_copy(update={field: choice, **more})
            found[f"{name}, {field}: {choice}"] = Row(varied, values)
    return found


def reason(row: Row, family: Family, path: Path) -> str:
    """Tries a cell as a site does before it reads a record, and compares gradients and bits with oracles.

    Returns:
        Why a site refuses it, in one sentence; empty where it works.

    Raises:
        AssertionError: A unit's gradient is not that of its loss alone, or depends on its neighbours.
    """
    try:
        bench = Workbench(_contract(row.task, family.made.targets), family.save(path))
    except UsageError as error:
        return error.problem.replace(str(path), "the folder")
    longest = row.task.max_length
    # A tokenizer of a few words may leave nothing of a text; made-up tokens are there whatever it does.
    made_up = bench.loader.ahead(
        bench.loader.made_up([(longest,), (longest // 2 + 1,), (3,)], seed=1)
    )
    with bench.moved():
        _compare(bench, bench.loader.encode(Records(row.values)))
        assert _compare(bench, made_up) > 0
    return ""


def _compare(bench: Workbench, data: Encoded) -> float:
    """Returns the smallest norm of a unit's gradient."""
    norms = []
    named = [p for _, p in sorted(bench.model.named_parameters()) if p.requires_grad]
    passes = list(bench.loader.batches(data, np.arange(len(data)), 8))
    for batch, gradients in zip(passes, bench.gradients.each(passes), strict=True):
        owners = data.units[batch.index]
        for number, gradient in enumerate(gradients):
            unit = np.unique(owners[batch.units.numpy() == number])
            alone = bench.loader.batch(data, *_of_unit(data.units, int(unit[0])))
            (same,) = bench.gradients.each([alone])
            assert torch.equal(same[0], gradient)
            parts = torch.autograd.grad(alone.losses(bench.model).sum(), named, allow_unused=True)
            expected = torch.cat([_flat(*pair) for pair in zip(parts, named, strict=True)])
            assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-5)
            norms.append(float(expected.norm()))
    return min(norms)


def _of_unit(units: Any, unit: int) -> tuple[Any, Any]:
    members = np.flatnonzero(units == unit)
    return members, units[members]


def _flat(part: torch.Tensor | None, parameter: torch.Tensor) -> torch.Tensor:
    return (torch.zeros_like(parameter) if part is None else part).flatten()


def _contract(task: Task, targets: tuple[str, ...]) -> Contract:
    plan = Plan(
        name="x",
        model="x",
        task=task,
        adapter=LoRA(rank=2, targets=targets),
        training=Training(rounds=1, sampling_rate=0.1, nominal_units=10, micro_batch=4),
        strategy=FedSGD(),
        privacy=Privacy(noise_multiplier=1.0),
    )
    return plan.contract(model_digest="0" * 64, noise_multiplier=1.0)


def cells() -> Iterator[tuple[str, str]]:
    """Yields every task with every family."""
    for task in rows():
        for family in FAMILIES:
            yield task, family
