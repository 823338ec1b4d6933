"""Kinds by name: found, filled in, refused; and those of third parties."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from hortus.protocol.section import Kind, Section
from hortus.runtime.documents import Document
from hortus.runtime.errors import HortusError, UsageError
from hortus.runtime.registry import Registry, allow_plug_ins


class Square(Kind):
    kind: Literal["square"] = "square"
    side: float = 1.0


class Circle(Kind):
    kind: Literal["circle"] = "circle"
    radius: float
    colours: tuple[str, ...] = ("red",)


def shapes(**more: str) -> Registry[Kind]:
    table = {"square": f"{__name__}:Square", "circle": f"{__name__}:Circle", **more}
    return Registry("shape", ("drawing", "shape"), "hortus.test-shapes", table, default="square")


def test_a_plan_leaves_out_what_has_a_default() -> None:
    assert shapes().complete({}) == Square()
    assert shapes().complete({"kind": "circle", "radius": 2}) == Circle(radius=2.0)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"kind": "sqare"}, "Did you mean 'square'?"),
        ({"kind": "hexagon"}, "There are: circle, square."),
        ({"kind": 3}, "whose `kind` names the shape"),
        ("square", "whose `kind` names the shape"),
        ({"kind": "circle"}, "drawing.shape.radius: missing"),
        ({"kind": "circle", "radios": 1}, "did you mean radius?"),
        ({"kind": "circle", "radius": "wide"}, 'drawing.shape.radius: "wide"'),
    ],
)
def test_what_is_wrong_is_named(written: object, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        shapes().complete(written)
    assert said in str(caught.value)


def test_a_wrong_value_is_named_with_its_file_and_setting(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("drawing:\n  shape: {kind: circle, radius: 2}\n")
    document = Document.read(path, ["drawing.shape.radius=wide"])
    with pytest.raises(UsageError) as caught:
        shapes().complete(document.fields()["drawing"]["shape"], document)
    assert "--set drawing.shape.radius=wide: drawing.shape.radius" in str(caught.value)


def test_a_contract_states_every_value_just_as_the_kind_here_does() -> None:
    known = shapes()
    assert known.parse(Section(kind="circle", radius=2.0, colours=["red"])) == Circle(radius=2)
    for own in (
        Section(kind="circle", radius=2.0),  # a default left out
        Section(kind="circle", radius=2, colours=["red"]),  # other bytes, so another hash
        Section(kind="square"),
    ):
        with pytest.raises(HortusError, match="differs from the contract's"):
            known.parse(own)
    with pytest.raises(UsageError, match="no such key"):
        known.parse(Section(kind="square", side=1.0, edge=2))


def test_a_section_is_canonical_and_takes_a_kind() -> None:
    assert Section.model_validate(Circle(radius=2)) == Circle(radius=2).section
    assert Circle(radius=2).section.digest() != Circle(radius=3).section.digest()
    with pytest.raises(ValueError, match="Out of range float"):
        Section(kind="circle", radius=float("nan"))


def test_a_kind_whose_package_is_missing_says_what_to_install() -> None:
    known = Registry[Kind](
        "shape",
        ("shape",),
        "hortus.test-shapes",
        {"cube": "surely_not_installed.cube:Cube"},
        needs={"cube": "pip install cubes"},
    )
    with pytest.raises(UsageError, match="pip install cubes"):
        known.kind("cube")


def install(folder: Path, package: str, *kinds: str) -> None:
    """A distribution of somebody else, installed as pip leaves it, whose kinds are all one class."""
    module = package.replace("-", "_").lower()
    folder.joinpath(f"{module}.py").write_text(
        "from hortus.protocol.section import Kind\nclass Triangle(Kind):\n    kind: str = 'triangle'\n"
    )
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "".join(f"{kind} = {module}:Triangle\n" for kind in kinds)
    (info / "entry_points.txt").write_text(f"[hortus.test-shapes]\n{lines}")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages; none is allowed yet."""
    monkeypatch.syspath_prepend(str(tmp_path))
    allow_plug_ins(())
    yield tmp_path
    allow_plug_ins(())
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def installed(packages: Path) -> None:
    install(packages, "hortus_triangles", "triangle", "square")


@pytest.mark.usefixtures("installed")
def test_a_third_partys_kind_loads_only_where_its_package_is_allowed() -> None:
    known = shapes()
    assert known.names() == ("circle", "square")
    with pytest.raises(UsageError, match=r"plug_ins: \[hortus_triangles\]"):
        known.complete({"kind": "triangle"})
    assert "hortus_triangles" not in sys.modules  # not even imported
    allow_plug_ins(["Hortus-Triangles"])
    assert known.names() == ("circle", "square", "triangle")
    assert known.complete({"kind": "triangle"}).kind == "triangle"
    assert known.kind("square") is Square  # a name of ours is never theirs
    allow_plug_ins(None)
    assert "triangle" in known.names()


@pytest.mark.parametrize(
    ("allowed", "brought"),
    [
        (None, "hortus-more, hortus_triangles"),
        (["hortus_triangles", "hortus-more"], "hortus-more, hortus_triangles"),
        (["Hortus.More", "hortus-triangles"], "hortus-more, hortus_triangles"),
        (["hortus_triangles"], ""),
        (["hortus-more"], ""),
    ],
)
def test_a_kind_of_two_packages_is_refused_unless_one_of_them_is_allowed(
    packages: Path, allowed: list[str] | None, brought: str
) -> None:
    install(packages, "hortus_triangles", "triangle", "kite")
    install(packages, "hortus-more", "triangle", "rhombus")
    allow_plug_ins(allowed)
    known = shapes()
    assert "triangle" in known.names()
    if not brought:
        assert known.complete({"kind": "triangle"}).kind == "triangle"
        return
    for _ in range(2):  # whichever is asked first
        with pytest.raises(UsageError) as caught:
            known.complete({"kind": "triangle"})
        assert f"by more than one package: {brought}" in str(caught.value)
        assert "plug_ins: [hortus-more]" in str(caught.value)
    assert not {"hortus_triangles", "hortus_more"} & set(sys.modules), "neither is imported"
    with pytest.raises(UsageError, match="more than one package"):
        known.parse(Section(kind="triangle"))
    assert known.complete({"kind": "rhombus"}).kind == "rhombus"
    assert known.complete({"kind": "kite"}).kind == "kite"
