"""What a step takes with each simulation engine, by the number of virtual sites: seconds and memory.

    OMP_NUM_THREADS=1 python benchmarks/simulation_engines.py [ENGINE:SITES ...]

Runs examples/banking77/plan.yaml: a private head of 29,645 numbers on all 10,003 records, which however many sites
share. An encoder of one layer with random weights stands in for all-MiniLM-L6-v2, whose embeddings are made once, before
the first step, and are as wide. Each run is a process of its own. A step is what lies between two rounds, divided by the steps of a round:
gradients, noise, the sum, the server's step, checkpoints and charges, but no evaluation. Rows are added to
benchmarks/results/simulation_engines.csv. HORTUS_DATA names the folder of the datasets, unless the records are where the
plan says.
"""

import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from string import ascii_lowercase

import torch
from provenance import measured_commit
from transformers import BertConfig, BertModel, BertTokenizerFast

from hortus.planning.plan_file import load_plan
from hortus.runtime.surroundings import raise_open_files
from hortus.simulation.engines.kinds import with_engine
from hortus.simulation.simulate import simulate

HERE = Path(__file__).parent
PLAN = HERE.parent / "examples" / "banking77" / "plan.yaml"
RESULTS = HERE / "results" / "simulation_engines.csv"
COLUMNS = ("engine", "sites", "s_setup", "s_step", "mib", "commit")
RUNS = ("in-process:1000", "rehearsal:100", "in-process:100", "rehearsal:20", "in-process:20")
ROUNDS, STEPS = 4, 2
RECORDS = 10_000


def save_encoder(directory: Path) -> Path:
    """Saves a BERT of one layer that is as wide as all-MiniLM-L6-v2, and knows letters only."""
    directory.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ascii_lowercase]
    vocabulary = [*words, *(f"##{letter}" for letter in ascii_lowercase)]
    (directory / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(directory / "vocab.txt")).save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=384,
        num_hidden_layers=1,
        num_attention_heads=6,
        intermediate_size=384,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(directory)
    return directory


def measure(engine: str, sites: int) -> list[object]:
    """Runs the plan in this process; returns a row."""
    raise_open_files()
    train = PLAN.parent / "data" / "train.csv"
    if not train.exists():
        train = Path(os.environ["HORTUS_DATA"]).resolve() / "banking77" / "train.csv"
    folder = tempfile.TemporaryDirectory()
    settings = (
        "evaluation=",
        f"model={save_encoder(Path(folder.name) / 'model')}",
        f"simulation.train={train}",
        f"simulation.partition.sites={sites}",
        f"training.rounds={ROUNDS}",
        f"training.steps_per_round={STEPS}",
        f"training.nominal_units={RECORDS // sites}",
        "cohort.join_deadline=3600",
    )
    ended: list[float] = []
    begun = time.perf_counter()
    plan = with_engine(load_plan(PLAN, settings), engine)
    with folder as out:
        simulate(plan, PLAN, Path(out) / "run", lambda *_: ended.append(time.perf_counter()))
    step = median((b - a) / STEPS for a, b in pairwise(ended))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    setup = ended[0] - begun - STEPS * step
    return [engine, sites, round(setup, 1), round(step, 3), round(peak), measured_commit()]


def main() -> None:
    for run in sys.argv[1:] or RUNS:
        command = [sys.executable, __file__, "--alone", run]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = done.stdout.strip().splitlines()[-1].split(",")
        print(dict(zip(COLUMNS, row, strict=True)), flush=True)
        with RESULTS.open("a", newline="") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(COLUMNS)
            writer.writerow(row)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        name, _, count = sys.argv[2].partition(":")
        print(*measure(name, int(count)), sep=",")
    else:
        main()
