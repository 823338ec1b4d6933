"""Tries every task with every family of models: `python benchmarks/support.py` adds to results/support.csv.

Cells that have a row keep it; `--again` tries all.
`--render PAGE` writes the table of docs/support.md from that file instead, and tries nothing (`make docs`).
A cell is tried as a site tries it before it reads a record, then its gradients are compared with autograd's, and the
bits of a unit among others with its bits alone (tests/helpers/support.py).
"""

import argparse
import csv
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

from provenance import measured_commit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "support.csv"
_HEAD = """# Which task works with which models

Every cell was tried on a random model of the family's smallest shape: the checks that a site makes before it reads a
record, each unit's gradient against PyTorch's own for that unit alone, and its bits among other units against its bits
alone, with `kind: lora`. What a site refuses, it refuses before a budget is spent, and the notes say why. No cell needs
a GPU: whether a model needs one is a question of its size and of patience, not of its family
([memory](models.md#memory)).
"""
_FOOT = """
`python benchmarks/support.py` tries every cell and writes `benchmarks/results/support.csv`, from which `make docs` makes
this page. The tests try a sample of the cells each time ([test_support.py](../tests/learning/test_support.py)).
"""
Cells = Mapping[tuple[str, str], tuple[str, str]]


def try_all(known: Cells) -> None:
    """Tries every cell that is not known, and writes why it is refused; an empty reason: it works."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from helpers.support import FAMILIES, cells, reason, rows  # noqa: PLC0415 - a page is written without

    warnings.simplefilter("ignore")
    commit, tasks = measured_commit(), rows()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for cell in cells():
            if cell not in known:
                task, family = cell
                path = Path(folder) / family.replace(" ", "-")
                cause = reason(tasks[task], FAMILIES[family], path)
                print(task, family, cause or "works", sep=" | ", flush=True)
                found.append((*cell, cause, commit))
            else:
                found.append((*cell, *known[cell]))
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        header = ("task", "family", "refused because", "commit")
        csv.writer(file, lineterminator="\n").writerows([header, *found])


def read() -> dict[tuple[str, str], tuple[str, str]]:
    """Returns by task and family why a cell is refused, and the commit that it was tried at."""
    with RESULTS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return {(task, family): (reason, commit) for task, family, reason, commit in rows}


def page(found: Cells) -> str:
    """Returns docs/support.md."""
    tasks = list(dict.fromkeys(task for task, _ in found))
    families = list(dict.fromkeys(family for _, family in found))
    # One note for one reason, whichever architecture it names.
    reasons = list(dict.fromkeys(_general(reason) for reason, _ in found.values() if reason))
    lines = [_HEAD, f"| | {' | '.join(f'`{_code(task)}`{_rest(task)}' for task in tasks)} |"]
    lines.append(f"| --- |{' --- |' * len(tasks)}")
    for family in families:
        cells = [_cell(found[task, family][0], reasons) for task in tasks]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    lines.append("")
    lines += [f"{number}. Refused: {reason}." for number, reason in enumerate(reasons, 1)]
    return "\n".join(lines) + "\n" + _FOOT


def _code(task: str) -> str:
    return task.partition(", ")[0]


def _rest(task: str) -> str:
    choice = task.partition(", ")[2]
    return f" `{choice}`" if choice else ""


def _general(reason: str) -> str:
    before, quote, rest = reason.partition("a model of type '")
    return f"{before}a model of this type{rest.partition(chr(39))[2]}" if quote else reason


def _cell(reason: str, reasons: list[str]) -> str:
    return f"refused ({reasons.index(_general(reason)) + 1})" if reason else "works"


def main() -> None:
    """Tries the cells, or writes the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--again", action="store_true", help="tries what was tried before too")
    parser.add_argument("--render", type=Path)
    options = parser.parse_args()
    if options.render:
        options.render.write_text(page(read()), encoding="utf-8")
    else:
        try_all({} if options.again or not RESULTS.exists() else read())


if __name__ == "__main__":
    main()
