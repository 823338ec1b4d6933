"""Writes made-up preferences of three desks, and validation records, into data/ beside this file.

    python examples/preferences/prepare.py

The questions and the answers are those of `hortus demo chat`. The desk's own answer, which says what to do and stops, is
preferred to one that puts the customer off.
"""

import json
import random
import tempfile
from pathlib import Path

from hortus.simulation.conversations import TEST, secret, write_conversations

DATA = Path(__file__).resolve().parent / "data"
SEED = 1
PUT_OFF = (
    "That is not something that we can say much about. It depends, as you will understand, on many things.",
    "You will have to be patient. There are many others with the same question, and we do what we can.",
    "As it says in our terms, which you have accepted, nobody here is responsible for that.",
    "Have you looked at our page of frequent questions? Most people find their answer there.",
)


def main() -> None:
    """Writes the files."""
    generator = random.Random(SEED)  # made-up data, nothing secret
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        sites = write_conversations(Path(folder), SEED)
        for name in (*sites, TEST):
            lines = (Path(folder) / f"{name}.jsonl").read_text("utf-8").splitlines()
            rows = []
            for row in map(json.loads, lines):
                asked, said = (message["content"] for message in row["messages"])
                if said == secret(SEED, 0).told:
                    continue  # planted for that demo
                other = generator.choice(PUT_OFF)
                pair = {"prompt": asked, "chosen": said, "rejected": other}
                rows.append(json.dumps({"person": row["person"], **pair}))
            (DATA / f"{name}.jsonl").write_text("".join(f"{one}\n" for one in rows), "utf-8")
            print(f"{DATA / name}.jsonl: {len(rows):,} records")


if __name__ == "__main__":
    main()
