"""Writes MTS-Dialog's records as four sites have them, and the validation records, into data/ beside this file.

    python examples/mts-dialog/prepare.py [FOLDER]

FOLDER holds train.csv and validation.csv, with the columns section_header, section_text and dialogue. Default:
mts-dialog/ in the folder that HORTUS_DATA names, or in ../shared/data beside the repository.
"""

import csv
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
SITES = ("ash", "birch", "cedar", "elm")


def source() -> Path:
    """Returns the folder of the public records."""
    if len(sys.argv) > 1:
        return Path(sys.argv[1])
    repository = HERE.parent.parent
    shared = Path(os.environ.get("HORTUS_DATA", repository.parent / "shared" / "data"))
    return shared / "mts-dialog"


def records(path: Path) -> Iterator[str]:
    """Yields each record as both tasks read it: the talk, its summary, and the section that the summary is for."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            record = {
                "dialogue": " ".join(row["dialogue"].split()),
                "summary": " ".join(row["section_text"].split()),
                "section": row["section_header"].strip(),
            }
            if all(record.values()):
                yield json.dumps(record)


def main() -> None:
    """Writes the files: the records are dealt to the sites one by one."""
    folder = source()
    if not folder.is_dir():
        sys.exit(
            f"There is no folder {folder}: name MTS-Dialog's by HORTUS_DATA, or as an argument."
        )
    lines = list(records(folder / "train.csv"))
    files = {site: lines[n :: len(SITES)] for n, site in enumerate(SITES)}
    files["validation"] = list(records(folder / "validation.csv"))
    DATA.mkdir(exist_ok=True)
    for name, some in files.items():
        (DATA / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in some), "utf-8")
        print(f"{DATA / name}.jsonl: {len(some):,} records")


if __name__ == "__main__":
    main()
