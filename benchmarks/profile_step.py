"""Where the processor's time of a private step goes, and how much faster any engine could be.

    python benchmarks/profile_step.py [SHAPE ...]

The steps of benchmarks/engine.py on one thread, in turn: `forward` is what the losses take, `backward` all
backward passes with what hooks do in them, `clipping` the rest: norms, factors, weighted sum. No engine does without
the forward pass, so Opacus's step ÷ its forward pass is the most by which anything could outrun it, even if
gradients, norms and clipping cost nothing. Results go to benchmarks/results/profile_step.csv.
"""

import csv
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from engine import STEPS, Texts, build
from provenance import measured_commit
from torch import nn

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "profile_step.csv"
COLUMNS = ("shape", "step", "seconds", "forward", "backward", "clipping", "most", "turns", "commit")
SHAPES = ("minilm", "bert-base", "gpt2-small", "llama-100m")
PROFILED = ("plain", "hortus", "opacus")
TURNS, SECONDS_PER_SHAPE = 5, 150


@dataclass(frozen=True)
class TimedTexts(Texts):
    """Texts whose losses are timed."""

    seconds: dict[str, float]

    def losses(self, model: nn.Module) -> torch.Tensor:
        return timed(self.seconds, "forward", super().losses)(model)


def timed(seconds: dict[str, float], phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def timing(*arguments: object, **named: object) -> object:
        begun = time.process_time()
        result = call(*arguments, **named)
        seconds[phase] = seconds.get(phase, 0.0) + time.process_time() - begun
        return result

    return timing


def profile(shape: str) -> dict[str, list[dict[str, float]]]:
    """Processor seconds by phase, of each turn; the first turn warms up."""
    seconds: dict[str, float] = {}
    drawn = Texts.draw(shape)
    texts = TimedTexts(drawn.ids, drawn.labels, drawn.units, seconds)
    steps = {name: STEPS[name](build(shape), texts) for name in PROFILED}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    started = time.process_time()
    backward = timed(seconds, "backward", torch.Tensor.backward)
    with patch.object(torch.Tensor, "backward", backward):
        for turn in range(TURNS + 1):
            for name, step in steps.items():
                seconds.clear()
                timed(seconds, "whole", step)()
                if turn > 0:
                    turns[name].append(dict(seconds))
            if turn > 0 and time.process_time() - started > SECONDS_PER_SHAPE:
                break
    return turns


def rows(shape: str, commit: str) -> list[dict[str, object]]:
    found = []
    for name, turns in profile(shape).items():
        whole = statistics.median(turn["whole"] for turn in turns)
        forward, backward = (
            statistics.median(turn[phase] / turn["whole"] for turn in turns)
            for phase in ("forward", "backward")
        )
        found.append(
            {
                "shape": shape,
                "step": name,
                "seconds": round(whole, 3),
                "forward": f"{forward:.1%}",
                "backward": f"{backward:.1%}",
                "clipping": f"{1 - forward - backward:.1%}",
                "most": round(1 / forward, 2),
                "turns": len(turns),
                "commit": commit,
            }
        )
    return found


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Full backward hook")
    commit = measured_commit()
    known: list[dict[str, object]] = []
    if RESULTS.exists():
        with RESULTS.open(encoding="utf-8", newline="") as file:
            known = list(csv.DictReader(file))
    for shape in sys.argv[1:] or SHAPES:
        found = rows(shape, commit)
        print(*found, sep="\n", flush=True)
        known = [row for row in known if row["shape"] != shape] + found
        with RESULTS.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(known)


if __name__ == "__main__":
    main()
