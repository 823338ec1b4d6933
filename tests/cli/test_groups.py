import typer
from typer.testing import CliRunner

from hortus.cli.groups import FallbackGroup

app = typer.Typer(cls=FallbackGroup, no_args_is_help=True)


@app.command()
def look(place: str, closely: bool = False) -> None:
    typer.echo(f"look {place} {closely}")


@app.command()
def show(place: str) -> None:
    typer.echo(f"show {place}")


def says(*arguments: str) -> str:
    return CliRunner().invoke(app, arguments).output


def test_the_first_command_is_meant_where_none_is_named() -> None:
    assert says("here") == "look here False\n"
    assert says("here", "--closely") == says("--closely", "here") == "look here True\n"
    assert says("look", "here") == says("here")


def test_the_first_command_may_need_no_words_at_all() -> None:
    ready = typer.Typer(cls=FallbackGroup)

    @ready.command()
    def first(much: int = 1) -> None:
        typer.echo(f"first {much}")

    @ready.command()
    def second() -> None:
        typer.echo("second")

    for arguments, said in (((), "first 1"), (("--much", "3"), "first 3"), (("second",), "second")):
        assert CliRunner().invoke(ready, arguments).output == f"{said}\n"
    assert "second" in CliRunner().invoke(ready, ["--help"]).output


def test_a_command_that_is_named_is_run_and_help_lists_all() -> None:
    assert says("show", "here") == "show here\n"
    for arguments in ((), ("--help",)):
        output = says(*arguments)
        assert "look" in output
        assert "show" in output
