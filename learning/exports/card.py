"""The model card of an export: what was learnt, how well, at what cost in privacy, and how to open it."""

import math
import shlex
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from hortus.learning.exports.form import Form
from hortus.learning.methods.base import ABOUT
from hortus.learning.methods.kinds import METHODS
from hortus.learning.tasks.kinds import TASKS
from hortus.protocol.plan import Contract
from hortus.protocol.privacy import Noise
from hortus.runtime.errors import HortusError, UsageError, printable
from hortus.runtime.metric import Metrics

CARD = "README.md"
POOLED = "modules.json"
"""What tells sentence-transformers of a model on pooled states what it is made of."""
# What the hub calls a task, by what PEFT calls it.
_PIPELINES = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "CAUSAL_LM": "text-generation",
    "SEQ_2_SEQ_LM": "text2text-generation",
}


class About(BaseModel):
    """What a run says of an adapter, beside it.

    Attributes:
        terms: What was trained.
        round: The round that it is of, from 1.
        rounds: How many the plan has.
        epsilon: ε that the server claims for a site that was in every attempt at a sum; None without privacy.
        delta: The plan's δ.
        metrics: On public records; empty without any.
    """

    terms: Contract
    round: int
    rounds: int
    epsilon: float | None
    delta: float
    metrics: Metrics = ()


def read_about(adapter: Path) -> About:
    """Reads what a run says of an adapter.

    Raises:
        UsageError: There is no adapter of Hortus's in the folder.
        HortusError: What is said is damaged.
    """
    path = adapter / ABOUT
    try:
        return About.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(
            "there is no adapter in this folder",
            where=str(adapter),
            remedy="Name the folder of a run, or an adapter's that `hortus export` wrote.",
        ) from error
    except (OSError, ValidationError) as error:
        raise HortusError("the adapter's description is damaged", where=str(path)) from error


def write_card(folder: Path, about: About, form: Form, task_type: str | None) -> None:
    """Writes the card of an export into its folder.

    Args:
        folder: Of the export, all other files of which are there.
        about: What the run says of the adapter.
        form: What the export is.
        task_type: What PEFT calls the task; None where it has no name for it.
    """
    is_pooled = (folder / POOLED).exists()
    front = _front(about, form, task_type, is_pooled=is_pooled)
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        f"# {about.terms.name}",
        *_what(about.terms, form),
        *_reached(about),
        *_privacy(about),
        *_opening(folder, about.terms, form),
        *_limits(about.terms),
    ]
    (folder / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _front(about: About, form: Form, task_type: str | None, *, is_pooled: bool) -> dict[str, Any]:
    """Returns what the hub reads of a card."""
    contract = about.terms
    is_classifier = task_type is None and "labels" in contract.task.fields
    pipeline = "text-classification" if is_classifier else _PIPELINES.get(task_type or "")
    library = {Form.ADAPTER: "peft", Form.MERGED: "transformers", Form.ONNX: "onnx"}[form]
    if is_pooled:
        library = "sentence-transformers"
    named: dict[str, Any] = {
        "library_name": library,
        "base_model": _base(contract),
        "tags": ["hortus", "federated-learning"],
    }
    if contract.privacy.noise is not Noise.UNSAFE_NONE:
        named["tags"].append("differential-privacy")
    if pipeline:
        named["pipeline_tag"] = pipeline
    found = [
        {"type": metric.name, "name": metric.label, "value": metric.value}
        for metric in about.metrics
        if metric.value is not None
    ]
    if found:
        task = {"type": pipeline or contract.task.kind}
        data = {"type": "public", "name": "the plan's public evaluation records"}
        named["model-index"] = [
            {
                "name": contract.name,
                "results": [{"task": task, "dataset": data, "metrics": found}],
            }
        ]
    return named


def _what(contract: Contract, form: Form) -> list[str]:
    task, method = TASKS.parse(contract.task), METHODS.parse(contract.adapter)
    whole = "" if form is Form.ADAPTER else " The adapter is merged into the weights."
    return [
        "",
        (
            f"Several sites trained this model together, without showing anybody a record, to {task.words(_code)}. "
            f"Trained was {method.words}.{whole}"
        ),
        "",
        "| | |",
        "| --- | --- |",
        f"| task | {_code(task.kind)} |",
        f"| adapter | {_code(method.kind)} |",
        f"| base model | {_code(_base(contract))} |",
        f"| SHA-256 of the base model's files | {_code(contract.model_digest)} |",
        f"| plan | {_code(contract.name)} |",
        f"| hash of the plan | {_code(contract.digest())} |",
    ]


def _reached(about: About) -> list[str]:
    rounds = f"after round {about.round} of {about.rounds}"
    if not about.metrics:
        return ["", "## Results", "", f"Not measured {rounds}: the plan names no public records."]
    rows = (f"| {_plain(metric.label)} | {metric.text} |" for metric in about.metrics)
    return [
        "",
        "## Results",
        "",
        f"On the plan's public evaluation records, {rounds}. They cost no ε.",
        "",
        "| metric | value |",
        "| --- | --- |",
        *rows,
    ]


def _privacy(about: About) -> list[str]:
    unit = about.terms.privacy.unit
    title = ["", "## Privacy", ""]
    if about.epsilon is None:
        return [
            *title,
            (
                "**None.** This model was trained without noise, and may repeat what it has seen. Do not give it to "
                "anybody who may not see the records."
            ),
        ]
    return [
        *title,
        f"For each site and each {_code(unit)}: **ε ≤ {_up(about.epsilon)} at δ = {about.delta:g}**.",
        "",
        f"- The unit is one {_code(unit)}: the bound holds for all of its records at a site together.",
        (
            "- It is per site, and for a site that was in every secure sum of this run, as the server counts them. Each "
            "site's signed ledger has its own figure, and `hortus audit` recomputes it."
        ),
        "- It is about this run. What a site releases of the same records in other runs adds to it.",
    ]


def _opening(folder: Path, contract: Contract, form: Form) -> list[str]:
    name = folder.name.removeprefix(".").removesuffix(".partial")
    code = {Form.ADAPTER: _adapter_code, Form.MERGED: _merged_code, Form.ONNX: _onnx_code}[form]
    return ["", "## How to open it", "", "```python", *code(folder, name), "```"] + (
        [
            "",
            (
                f"The base model, {_code(_base(contract))}, must be on the machine: Hortus compares its hash. "
                f"On the command line: {_code(f'hortus predict {shlex.quote(name)} TEXT')}."
            ),
        ]
        if form is Form.ADAPTER
        else []
    )


def _adapter_code(folder: Path, name: str) -> list[str]:  # noqa: ARG001 - others look into it
    return [
        "import hortus",
        "",
        f'model = hortus.load({name!r}, model="BASE_MODEL_FOLDER")',
        'print(model.predict(["a text"]))',
    ]


def _merged_code(folder: Path, name: str) -> list[str]:
    if (folder / POOLED).exists():
        return [
            "from sentence_transformers import SentenceTransformer",
            "",
            f"model = SentenceTransformer({name!r})",
            'logits = model.encode(["a text"])  # one for each of config.json\'s id2label',
        ]
    config = yaml.safe_load((folder / "config.json").read_text(encoding="utf-8"))
    architecture = str(config["architectures"][0])
    return [
        f"from transformers import AutoTokenizer, {architecture}",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({name!r})",
        f"model = {architecture}.from_pretrained({name!r})",
    ]


def _onnx_code(folder: Path, name: str) -> list[str]:  # noqa: ARG001 - others look into it
    return [
        "import onnxruntime",
        "from transformers import AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({name!r})",
        f"session = onnxruntime.InferenceSession({name + '/model.onnx'!r})",
        'tokens = tokenizer(["a text"], return_tensors="np", padding=True, truncation=True)',
        "inputs = {one.name: tokens[one.name] for one in session.get_inputs()}",
        "logits, *_ = session.run(None, inputs)",
    ]


def _limits(contract: Contract) -> list[str]:
    length = TASKS.parse(contract.task).max_length
    return [
        "",
        "## Limits",
        "",
        f"- Trained on texts of up to {length:,} tokens: what is longer was cut.",
        (
            "- Measured on the public records alone; how it does on other texts, languages or groups of people is not "
            "known."
        ),
        "- What the base model's card says of its licence, data and biases holds here too.",
        "- The privacy bound is about the records of the sites, not about those of the base model's pretraining.",
    ]


def _base(contract: Contract) -> str:
    """Returns what a base model is called, without where it lay on a machine."""
    name = contract.model
    return name if name.startswith("package:") else Path(name).name or "base model"


def _code(text: str) -> str:
    return f"`{printable(text).replace('`', '�').replace('|', '¦')}`"


def _plain(text: str) -> str:
    return "".join(f"\\{c}" if c in "|`*_[]<>#\\" else c for c in printable(text))


def _up(value: float) -> str:
    """Writes a bound with three digits, rounded up."""
    if value <= 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / unit - 1e-9) * unit:.3g}"
