"""`hortus model`: prepares a base model so that a plan can name it."""

from pathlib import Path
from typing import Annotated

import typer

from hortus.cli.display import terminal

model = typer.Typer(
    name="model", no_args_is_help=True, help="Prepare the folder of a base model for plans."
)


@model.callback()
def _commands() -> None:
    """Prepare the folder of a base model for plans."""


@model.command()
def convert(
    folder: Annotated[
        Path, typer.Argument(help="The model's folder, with pytorch_model.bin in it.")
    ],
) -> None:
    """Write pickled weights as safetensors, the format that plans require.

    Runs nothing that the pickle may hold besides weights. The old file stays.
    """
    from hortus.learning.models.conversion import convert as converted

    console = terminal()
    with console.status("reading weights…"):
        written = converted(folder)
    console.print(f"written  {written}", highlight=False, markup=False)
    console.print("Plans can name the folder now. You may delete pytorch_model*.bin.")
