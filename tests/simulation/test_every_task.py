"""Tasks, from a plan file and records to an audited run."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.tiny_models import ARCHITECTURES, save_for_task

from hortus.planning.plan_file import load_plan
from hortus.runtime.metric import primary
from hortus.server.run.records import RoundRecord
from hortus.simulation.simulate import simulate

THINGS = {
    "sky": "blue",
    "grass": "green",
    "rose": "red",
    "fire": "red",
    "leaf": "green",
    "sea": "blue",
}


def conversations(count: int) -> list[dict[str, Any]]:
    """What colour is a thing? The answer is its colour."""
    asked = [list(THINGS.items())[number % len(THINGS)] for number in range(count)]
    return [
        {"messages": [{"role": "user", "content": thing}, {"role": "assistant", "content": colour}]}
        for thing, colour in asked
    ]


def sentences(count: int) -> list[dict[str, Any]]:
    """Colours are entities."""
    asked = [list(THINGS.items())[number % len(THINGS)] for number in range(count)]
    return [
        {"tokens": ["the", thing, "is", colour], "tags": ["O", "O", "O", "B-Colour"]}
        for thing, colour in asked
    ]


def described(count: int) -> list[dict[str, Any]]:
    """Which colours is a thing? How warm? Where does a text say so?"""
    asked = [list(THINGS.items())[number % len(THINGS)] for number in range(count)]
    return [
        {
            "text": thing,
            "about": f"the {thing} is {colour}",
            "labels": [colour] if colour != "blue" else [],
            "warmth": {"red": 10, "green": 5, "blue": 0}[colour],
            "answer": colour,
            "answer_start": len(f"the {thing} is "),
            "label": "yes" if colour == "red" else "no",
        }
        for thing, colour in asked
    ]


def documents(count: int) -> list[dict[str, Any]]:
    """What colour things are."""
    return [{"text": " ".join(row["tokens"])} for row in sentences(count)]


def pairs(count: int) -> list[dict[str, Any]]:
    """A thing is turned into its colour."""
    return [{"source": row["tokens"][1], "target": row["tokens"][3]} for row in sentences(count)]


def preferences(count: int) -> list[dict[str, Any]]:
    """The right colour is preferred to another one."""
    return [
        {
            "prompt": row["source"],
            "chosen": row["target"],
            "rejected": "green" if row["target"] == "red" else "red",
        }
        for row in pairs(count)
    ]


CASES: dict[str, tuple[dict[str, Any], str, Any]] = {
    "chat": ({"kind": "chat", "max_length": 16}, "llama", conversations),
    "token-classification": (
        {"kind": "token-classification", "entities": ["Colour"], "max_length": 16},
        "bert",
        sentences,
    ),
    "text-classification": (
        {"labels": ["yes", "no"], "second": "about", "max_length": 16},
        "bert",
        described,
    ),
    "multi-label": (
        {"kind": "multi-label", "text": "about", "labels": ["red", "green"], "max_length": 16},
        "bert",
        described,
    ),
    "regression": (
        {
            "kind": "regression",
            "text": "about",
            "label": "warmth",
            "lowest": 0,
            "highest": 10,
            "max_length": 16,
        },
        "bert",
        described,
    ),
    "extractive-qa": (
        {
            "kind": "extractive-qa",
            "question": "text",
            "context": "about",
            "max_length": 32,
            "max_windows": 1,
        },
        "bert",
        described,
    ),
    "masked-pretraining": (
        {"kind": "masked-pretraining", "max_length": 16},
        "masked-lm",
        documents,
    ),
    "preferences": ({"kind": "preferences", "max_length": 16}, "llama", preferences),
    "pretraining": ({"kind": "pretraining", "max_length": 16}, "llama", documents),
    "text-to-text": (
        {
            "kind": "text-to-text",
            "max_length": 16,
            "max_target_length": 8,
            "compared": 2,
            "max_new_tokens": 4,
        },
        "t5",
        pairs,
    ),
}

# Without training: a loss of ln 20 = 3.0 nats, among twenty words, and no entity. What predicts words is frozen.
REACHED = {
    "chat": 2.9,
    "masked-pretraining": 3.1,  # queries of a random encoder change little: it runs to its end
    "preferences": 0.6,
    "pretraining": 3.0,
    "text-to-text": 2.9,
    "token-classification": 0.8,
    "text-classification": 0.8,
    "multi-label": 0.8,
    "regression": 3.0,
    "extractive-qa": 0.8,
}
RATES = {"multi-label": 0.03, "regression": 0.03}
ADAPTED = [(name, "lora") for name in CASES] + [("chat", "dora"), ("token-classification", "dora")]


@pytest.mark.parametrize(("name", "adapter"), ADAPTED)
def test_a_task_is_learnt_from_a_plan_file(tmp_path: Path, name: str, adapter: str) -> None:
    task, model, make = CASES[name]
    save_for_task(model, tmp_path / "model")
    sites = ("ash", "birch", "cedar")
    for site in (*sites, "public"):
        lines = [json.dumps(row) for row in make(24)]
        (tmp_path / f"{site}.jsonl").write_text("\n".join(lines))
    plan = {
        "name": "tiny",
        "model": "model",
        "task": task,
        "adapter": {"kind": adapter, "rank": 2, "targets": list(ARCHITECTURES[model].targets)},
        "strategy": {
            "kind": "fedsgd",
            "server_optimizer": {"kind": "Adam", "learning_rate": RATES.get(name, 0.1)},
        },
        "training": {
            "rounds": 3,
            "steps_per_round": 4,
            "sampling_rate": 0.5,
            "nominal_units": 24,
        },
        "privacy": {"noise": "unsafe_none"},
        "evaluation": "public.jsonl",
        "simulation": {"sites": {site: f"{site}.jsonl" for site in sites}},
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    path, rounds = tmp_path / "plan.yaml", list[RoundRecord]()
    simulate(load_plan(path), path, tmp_path / "run", lambda record, _: rounds.append(record))
    judged = primary(rounds[-1].metrics)
    assert judged is not None
    assert judged.gain(over=REACHED[name]) > 0
