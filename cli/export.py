"""`hortus export`, and what a command says about a run that it could not finish."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hortus.cli.display import terminal
from hortus.cli.options import BaseModel, Trained, Which
from hortus.cli.settings import allow_kinds
from hortus.learning.exports.form import Form
from hortus.runtime.errors import HortusError
from hortus.runtime.metric import primary

if TYPE_CHECKING:
    from hortus.learning.exports.card import About


def export(
    trained: Trained,
    out: Annotated[
        Path | None,
        typer.Argument(help="A new folder. Default: FORM-round-N in the run's folder."),
    ] = None,
    form: Annotated[
        Form,
        typer.Option(
            "--as",
            help="adapter: in PEFT's format. merged: the whole model in safetensors, which transformers opens. "
            "onnx: the graph of an encoder, for onnxruntime.",
        ),
    ] = Form.ADAPTER,
    which: Which = "last",
    model: BaseModel = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier export that is there.")
    ] = False,
) -> None:
    """Write a trained model with a model card: from any run, however it ended, or from an adapter.

    A run keeps its last two rounds and its best one.
    """
    from hortus.learning.exports.card import read_about
    from hortus.learning.predictor import export_adapter, load_model
    from hortus.server.run.results import lend_adapter

    allow_kinds(None)
    adapter, place = lend_adapter(trained, which)
    about = read_about(adapter)
    within = trained.parent if adapter == trained else trained
    target = out or within / f"{form.value}-round-{about.round}"
    if form is Form.ADAPTER:
        export_adapter(adapter, target, force=force)
    else:
        with terminal(stderr=True).status("merging and comparing…"):
            load_model(adapter, model, near=trained, keeps=place).export(target, form, force=force)
    terminal().print(f"{target}: {_told(form)} {_reached(about)}", soft_wrap=True)


def _told(form: Form) -> str:
    return {
        Form.ADAPTER: "the adapter",
        Form.MERGED: "the merged model",
        Form.ONNX: "the ONNX graph",
    }[form]


def _reached(about: "About") -> str:
    """Returns the round that an adapter is of, its cost and what it reached."""
    metric = primary(about.metrics)
    reached = "" if metric is None else f", {metric.label} {metric.text}"
    cost = "no privacy" if about.epsilon is None else f"ε = {about.epsilon:.4g}"
    return f"after round {about.round}, {cost}{reached}"


def tell_kept(console: Console, run: Path, write_report: Callable[[], object]) -> None:
    """Writes the report of a run that stops early and lists what is kept; the error follows."""
    from hortus.server.run.records import read_run
    from hortus.server.run.results import LAST

    try:
        rounds = read_run(run).rounds
        if not rounds:
            return
        write_report()
    except (HortusError, OSError) as error:
        console.print(f"no report could be written: {error}")
        return
    console.print(f"kept after round {rounds[-1].round + 1}:")
    console.print(f"  adapter (PEFT)  {run / LAST}")
    console.print(f"  report          {run / 'report.html'}")
