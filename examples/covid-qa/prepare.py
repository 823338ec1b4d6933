"""Writes COVID-QA's records as the task `extractive-qa` reads them, into data/ beside this file.

    python examples/covid-qa/prepare.py [FOLDER]

FOLDER holds train.jsonl and validation.jsonl, with the columns document, question, context, answer and answer_start.
Default: covid-qa/ in the folder that HORTUS_DATA names, or in ../shared/data beside the repository.
"""

import json
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SITES = 4


def source() -> Path:
    """Returns the folder of the public records."""
    if len(sys.argv) > 1:
        return Path(sys.argv[1])
    shared = HERE.parents[2] / "shared" / "data"
    return Path(os.environ.get("HORTUS_DATA", shared)) / HERE.name


def main() -> None:
    """Writes the files: an article's questions are all at one site."""
    folder = source()
    if not folder.is_dir():
        sys.exit(f"There is no folder {folder}: name that of COVID-QA, or HORTUS_DATA.")
    (HERE / "data").mkdir(exist_ok=True)
    shutil.copyfile(folder / "validation.jsonl", HERE / "data" / "validation.jsonl")
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    documents = sorted({json.loads(line)["document"] for line in lines}, key=int)
    for site in range(SITES):
        own = set(documents[site::SITES])
        some = [line for line in lines if json.loads(line)["document"] in own]
        (HERE / "data" / f"lab-{site + 1}.jsonl").write_text("".join(some), encoding="utf-8")
        print(f"{len(some)} questions on {len(own)} articles in data/lab-{site + 1}.jsonl")


if __name__ == "__main__":
    main()
