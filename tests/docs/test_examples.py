"""What an example's script writes is what its plan reads."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hortus.learning.data.records import read_records
from hortus.learning.tasks.kinds import TASKS
from hortus.planning.plan_file import load_plan

EXAMPLES = Path(__file__).parents[2] / "examples"

SENTENCE = "The\tO\nflu\tB-Disease\n\n"
ASKED = {"QUESTION": "Is it?", "CONTEXTS": ["It was.", "It is."], "final_decision": "maybe"}
FOUND = {"question": "What?", "context": "It is blue.", "answer": "blue", "answer_start": 6}


def found(*documents: str) -> str:
    return "".join(json.dumps(FOUND | {"document": one}) + "\n" for one in documents)


# The files that each script is given, in the form that their authors publish, and the records in each that it writes.
CASES: dict[str, tuple[dict[str, str], dict[str, int]]] = {
    "ncbi-disease": (
        {"train.tsv": SENTENCE * 3, "devel.tsv": SENTENCE.rstrip()},
        {"train.jsonl": 3, "devel.jsonl": 1},
    ),
    "pubmedqa": (
        {"ori_pqal.json": json.dumps({str(number): ASKED for number in range(10)})},
        {"train.jsonl": 8, "public.jsonl": 2},
    ),
    "covid-qa": (
        {
            "train.jsonl": found("1", "2", "3", "4", "5", "5"),
            "validation.jsonl": found("6"),
        },
        {
            "lab-1.jsonl": 3,
            "lab-2.jsonl": 1,
            "lab-3.jsonl": 1,
            "lab-4.jsonl": 1,
            "validation.jsonl": 1,
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_script_writes_what_the_plan_reads(tmp_path: Path, name: str) -> None:
    given, expected = CASES[name]
    source, example = tmp_path / "source", tmp_path / name
    source.mkdir()
    for file, text in given.items():
        (source / file).write_text(text, encoding="utf-8")
    example.mkdir()
    for file in ("prepare.py", "plan.yaml"):
        shutil.copy(EXAMPLES / name / file, example)
    subprocess.run([sys.executable, example / "prepare.py", source], check=True)
    task: Any = TASKS.parse(load_plan(example / "plan.yaml").task)
    records = {path.name: read_records(path, task) for path in (example / "data").iterdir()}
    assert {file: len(some) for file, some in records.items()} == expected


@pytest.mark.parametrize("name", CASES)
def test_without_records_the_script_says_what_to_do(tmp_path: Path, name: str) -> None:
    script = EXAMPLES / name / "prepare.py"
    ended = subprocess.run(
        [sys.executable, script, tmp_path / "nowhere"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "HORTUS_DATA" in ended.stderr
