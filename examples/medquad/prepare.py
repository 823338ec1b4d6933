"""Writes MedQuAD's records as nine sites have them, and the validation records, into data/ beside this file.

    python examples/medquad/prepare.py [FOLDER]

FOLDER holds train.jsonl and validation.jsonl, with the columns source, question and answer. Default: medquad/ in
the folder that HORTUS_DATA names, or in ../shared/data beside the repository.
"""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
INSTRUCTION = "You answer questions about health."


def source() -> Path:
    """Returns the folder of the public records."""
    if len(sys.argv) > 1:
        return Path(sys.argv[1])
    repository = HERE.parent.parent
    return Path(os.environ.get("HORTUS_DATA", repository.parent / "shared" / "data")) / "medquad"


def conversations(path: Path) -> Iterator[tuple[str, str]]:
    """Yields each record's source, and the record as the task `chat` reads it."""
    with path.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            messages = [
                {"role": "system", "content": INSTRUCTION},
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"]},
            ]
            yield row["source"], json.dumps({"messages": messages})


def main() -> None:
    """Writes the files."""
    folder = source()
    if not folder.is_dir():
        sys.exit(f"There is no folder {folder}: name MedQuAD's by HORTUS_DATA, or as an argument.")
    sites: dict[str, list[str]] = defaultdict(list)
    for site, line in conversations(folder / "train.jsonl"):
        sites[site.lower()].append(line)
    sites["validation"] = [line for _, line in conversations(folder / "validation.jsonl")]
    DATA.mkdir(exist_ok=True)
    for name, lines in sites.items():
        (DATA / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
        print(f"{DATA / name}.jsonl: {len(lines):,} records")


if __name__ == "__main__":
    main()
