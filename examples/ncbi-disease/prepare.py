"""Writes the NCBI disease corpus as the task `token-classification` reads it, into data/ beside this file.

    python examples/ncbi-disease/prepare.py [FOLDER]

FOLDER holds train.tsv and devel.tsv: a word and its tag a line, separated by a tab, and an empty line after each
sentence. Default: ncbi-disease/ in the folder that HORTUS_DATA names, or in ../shared/data beside the repository.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent


def source() -> Path:
    """Returns the folder of the public records."""
    if len(sys.argv) > 1:
        return Path(sys.argv[1])
    shared = HERE.parents[2] / "shared" / "data"
    return Path(os.environ.get("HORTUS_DATA", shared)) / HERE.name


def sentences(path: Path) -> Iterator[dict[str, list[str]]]:
    """Yields the sentences of a file."""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        lines = [line.split("\t") for line in block.splitlines() if line.strip()]
        if lines:
            yield {"tokens": [word for word, _ in lines], "tags": [tag for _, tag in lines]}


def main() -> None:
    """Writes the files."""
    folder = source()
    if not folder.is_dir():
        sys.exit(f"There is no folder {folder}: name that of the corpus, or HORTUS_DATA.")
    (HERE / "data").mkdir(exist_ok=True)
    for name in ("train", "devel"):
        lines = [json.dumps(row) + "\n" for row in sentences(folder / f"{name}.tsv")]
        (HERE / "data" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{len(lines)} sentences in data/{name}.jsonl")


if __name__ == "__main__":
    main()
