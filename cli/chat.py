"""`hortus chat`: a conversation with a trained model in the terminal, or through a pipe."""

import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hortus.cli.display import printable_lines, terminal
from hortus.cli.options import BaseModel, MaxNewTokens, Seed, Temperature, Trained, Which
from hortus.runtime.errors import UsageError

if TYPE_CHECKING:
    from hortus.learning.predictor import Model

_WIDE = 90  # columns from which on two answers have room side by side
_INTERRUPTED = 130
_HELP = "/reset forgets the conversation, /exit ends it; Ctrl-C stops an answer."
Message = dict[str, str]


def chat(
    trained: Trained,
    which: Which = "last",
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Have the base model answer too: the same model with the adapter switched off.",
        ),
    ] = False,
    system: Annotated[
        str, typer.Option(help="A system message that every conversation begins with.")
    ] = "",
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    model: BaseModel = None,
) -> None:
    """Talk with a trained language model, or compare it with its base model.

    Each line is a message; through a pipe too, and then only the answers are printed. Everything stays on this
    machine.
    """
    from hortus.api import load

    console = terminal()
    with terminal(stderr=True).status("loading the model…"):
        loaded = load(trained, which=which, model=model)
    if not loaded.writes:
        raise UsageError(
            f"a model of the task {loaded.task!r} writes no text",
            where=str(trained),
            remedy="hortus predict has it answer.",
        )
    if system and not loaded.converses:
        raise UsageError(
            f"a model of the task {loaded.task!r} reads no system message", where="--system"
        )
    sides = [Side("fine-tuned", loaded, system, adapter=True)]
    if compare:
        sides.insert(0, Side("base model", loaded, system, adapter=False))
    settings = Settings(max_new_tokens, temperature, seed)
    if _is_typed():
        _talk(console, sides, settings)
    else:
        for line in sys.stdin:
            if text := line.strip():
                _answer(console, sides, text, settings)


@dataclass(frozen=True, slots=True)
class Settings:
    """How answers are written; see `Model.generate`."""

    max_new_tokens: int
    temperature: float
    seed: int


@dataclass(slots=True)
class Side:
    """One of the models that answer, with the conversation that it has had.

    Attributes:
        name: What it is called.
        model: The trained model.
        system: The first message of every conversation; may be empty.
        adapter: Whether it answers with its adapter on.
        messages: The conversation so far.
        forgot: Whether its oldest messages had to be left out for the last answer.
    """

    name: str
    model: "Model"
    system: str
    adapter: bool
    messages: list[Message] = field(default_factory=list)
    forgot: bool = False

    def reset(self) -> None:
        """Forgets the conversation."""
        self.messages.clear()

    def reply(self, text: str, settings: Settings) -> Generator[str]:
        """Yields the answer to a message piece by piece; what was written of it belongs to the conversation."""
        self.messages.append({"role": "user", "content": text})
        said = ""
        try:
            self._make_room(settings.max_new_tokens)
            for piece in self._pieces(settings):
                said += piece
                yield piece
        finally:
            if said:
                self.messages.append({"role": "assistant", "content": said})
            else:
                self.messages.pop()  # an answer that is empty is no message

    def _make_room(self, tokens: int) -> None:
        """Leaves out the oldest questions, with their answers, until there is room for an answer."""
        self.forgot = False
        while len(self.messages) > 1 and not self.model.fits(self._prompt(), tokens):
            del self.messages[:2]
            self.forgot = True

    def _pieces(self, settings: Settings) -> Iterator[str]:
        return self.model.generate(
            self._prompt(),
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=settings.seed,
            stream=True,
            adapter=self.adapter,
        )

    def _prompt(self) -> "str | list[Message]":
        if not self.model.converses:
            return self.messages[-1]["content"]  # each line stands alone
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *self.messages]


def _is_typed() -> bool:
    """Whether a person types the messages."""
    return sys.stdin.isatty()


def _talk(console: Console, sides: list[Side], settings: Settings) -> None:
    """Asks a person for messages until there are no more."""
    import readline  # noqa: F401 - gives `input` a history and an editor

    console.print(_HELP, style="dim")
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print()
            raise typer.Exit(_INTERRUPTED) from None
        match text:
            case "":
                continue
            case "/exit" | "/quit":
                return
            case "/reset":
                for side in sides:
                    side.reset()
                console.print("The conversation is forgotten.", style="dim")
            case _ if text.startswith("/"):
                console.print(_HELP, style="dim")
            case _:
                _answer_person(console, sides, text, settings)


def _answer_person(console: Console, sides: list[Side], text: str, settings: Settings) -> None:
    """Answers; neither Ctrl-C nor a message that cannot be answered ends the conversation."""
    try:
        _answer(console, sides, text, settings)
    except KeyboardInterrupt:
        console.print()
        console.print("stopped", style="dim")
    except UsageError as error:
        console.print(str(error), style="red")


def _answer(console: Console, sides: list[Side], text: str, settings: Settings) -> None:
    if len(sides) > 1 and console.is_terminal and console.width >= _WIDE:
        _side_by_side(console, sides, text, settings)
    else:
        for side in sides:
            if len(sides) > 1:
                console.print(f"{side.name}:", style="bold")
            with closing(side.reply(text, settings)) as pieces:
                _flow(console, pieces)
    if any(side.forgot for side in sides):
        terminal(stderr=True).print(
            "The oldest messages no longer fit, and were left out.", style="dim"
        )


def _side_by_side(console: Console, sides: list[Side], text: str, settings: Settings) -> None:
    said = [""] * len(sides)

    def table() -> Table:
        columns = Table(box=None, expand=True, padding=(0, 2, 0, 0))
        for side in sides:
            columns.add_column(side.name, ratio=1, overflow="fold")
        columns.add_row(*(Text(printable_lines(one)) for one in said))
        return columns

    with Live(get_renderable=table, console=console, refresh_per_second=8) as live:
        for place, side in enumerate(sides):
            with closing(side.reply(text, settings)) as pieces:
                for piece in pieces:
                    said[place] += piece
        live.refresh()


def _flow(console: Console, pieces: Iterable[str]) -> None:
    """Writes pieces as they come, in lines of whole words on a terminal, and as they are elsewhere."""
    write: Callable[[str], object] = console.file.write
    width, column = console.width if console.is_terminal else sys.maxsize, 0
    for piece in pieces:
        for word in _words(printable_lines(piece)):
            if word == "\n":
                column = 0
            elif column + len(word.rstrip()) > width and column:
                write("\n")
                word, column = word.lstrip(), 0  # noqa: PLW2901 - the rest of it
            write(word)
            column += 0 if word == "\n" else len(word)
        console.file.flush()
    write("\n")
    console.file.flush()


def _words(text: str) -> Iterator[str]:
    """Yields words, each with the spaces before it, and ends of lines."""
    for number, line in enumerate(text.split("\n")):
        if number:
            yield "\n"
        start = 0
        for place in range(1, len(line)):
            if line[place] == " " and line[place - 1] != " ":
                yield line[start:place]
                start = place
        if line[start:]:
            yield line[start:]
