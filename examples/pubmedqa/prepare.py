"""Writes PubMedQA's records as the task `text-classification` reads them, into data/ beside this file.

    python examples/pubmedqa/prepare.py [FOLDER]

FOLDER holds ori_pqal.json. Default: pubmedqa/ in the folder that HORTUS_DATA names, or in ../shared/data beside the
repository. Every fifth question, in the order of their PubMed ids, is a public one to judge by.
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PUBLIC = 5


def source() -> Path:
    """Returns the folder of the public records."""
    if len(sys.argv) > 1:
        return Path(sys.argv[1])
    shared = HERE.parents[2] / "shared" / "data"
    return Path(os.environ.get("HORTUS_DATA", shared)) / HERE.name


def main() -> None:
    """Writes the files."""
    path = source() / "ori_pqal.json"
    if not path.is_file():
        sys.exit(f"There is no file {path}: name the folder of PubMedQA, or HORTUS_DATA.")
    asked = sorted(json.loads(path.read_text(encoding="utf-8")).items())
    rows = [
        {
            "question": one["QUESTION"],
            # Conclusions come last in an abstract, and PubMedQA leaves them out: what is cut is the beginning.
            "context": " ".join(reversed(one["CONTEXTS"])),
            "decision": one["final_decision"],
        }
        for _, one in asked
    ]
    (HERE / "data").mkdir(exist_ok=True)
    public = [row for number, row in enumerate(rows) if number % PUBLIC == 0]
    private = [row for number, row in enumerate(rows) if number % PUBLIC]
    for name, some in (("train", private), ("public", public)):
        lines = [json.dumps(row) + "\n" for row in some]
        (HERE / "data" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{len(lines)} questions in data/{name}.jsonl")


if __name__ == "__main__":
    main()
