"""A policy file is read strictly, and its mistakes are named one a line."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from hortus.parties.folders import SiteConfig, host_and_port
from hortus.planning.plan_file import load_plan
from hortus.protocol.plan import Plan
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.complaints import validation_error
from hortus.runtime.documents import load_yaml
from hortus.runtime.errors import UsageError
from hortus.runtime.schema import Schema


def _load(tmp_path: Path, text: str) -> Policy:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return Policy.load(path)


def test_the_defaults_are_the_careful_ones(tmp_path: Path) -> None:
    policy = _load(tmp_path, "budget: {epsilon: 8, delta: 1.0e-5}")
    assert policy == Policy(budget=Budget(epsilon=8.0, delta=1e-5))
    assert (policy.min_cohort, policy.min_honest) == (3, 2)
    assert policy.auto_approve is None
    assert [policy.most_honest(sites) for sites in (2, 3, 4, 5, 6, 9, 10)] == [1, 2, 2, 3, 4, 6, 6]
    assert not policy.unsafe_seeded_noise
    assert not policy.unsafe_no_privacy


def test_a_policy_reads_back(tmp_path: Path) -> None:
    policy = Policy(budget=Budget(epsilon=3, delta=1e-6), unsafe_no_privacy=True)
    policy.save(tmp_path / "policy.yaml")
    assert Policy.load(tmp_path / "policy.yaml") == policy


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("{}", ["budget: missing"]),
        (
            "budget: {epsilon: 0, delta: 1}\nmin_cohort: 1",
            [
                "budget.epsilon: 0 → should be greater than 0",
                (
                    "budget.delta: 1 → δ is the chance that the promise fails altogether, and 1 is above the "
                    "limit of 0.01; choose it well below 1 / the number of units"
                ),
                "min_cohort: 1 → should be greater than or equal to 2",
            ],
        ),
        (
            "budget: {epsilno: 1, delta: 0.01}",
            [
                "budget.epsilon: missing",
                "budget.epsilno: there is no such key: did you mean epsilon?",
            ],
        ),
        (
            "budget: {epsilon: 1, delta: 0.01}\nxyz: 1",
            ["xyz: there is no such key: known are auto_approve, "],
        ),
        (
            "budget: {epsilon: 1, delta: 0.01}\napproved_plans: [beef]",
            ["approved_plans: there is no such key: did you mean auto_approve?"],
        ),
        (
            "budget: {epsilon: .inf, delta: 0.01}",
            ["budget.epsilon: Infinity → should be a finite number"],
        ),
        (
            "budget: {epsilon: 1, delta: 0.01}\nmin_honest: 4",
            ["min_honest: 4 is more than min_cohort: 3"],
        ),
        (
            "budget: {epsilon: 1, delta: 0.01}\nmax_honest: 1",
            ["min_honest: 2 is more than max_honest: 1"],
        ),
        (
            "budget: {epsilon: 1, delta: 0.01}\nmax_honest_share: 1.1",
            ["max_honest_share: 1.1 → should be less than or equal to 1"],
        ),
    ],
)
def test_each_mistake_is_one_line(tmp_path: Path, text: str, lines: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        _load(tmp_path, text)
    found = str(caught.value).splitlines()
    assert len(found) == len(lines)
    for line, expected in zip(found, lines, strict=True):
        assert line.startswith(f"{tmp_path / 'policy.yaml'}: {expected}")


def _explain(model: type[Schema], content: dict[str, object]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(content)
    return str(validation_error(Path("f"), caught.value, model)).splitlines()


class _Cat(Schema):
    kind: Literal["cat"]
    lives: int


class _Dog(Schema):
    kind: Literal["dog"]
    walks: int


class _Home(Schema):
    pet: Annotated[_Cat | _Dog, Field(discriminator="kind")] | None = None
    plain: _Cat | int = 0
    named: dict[str, _Dog] = Field(default_factory=dict)
    several: tuple[_Cat, ...] = ()
    size: int | list[int] = 0


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            {"pet": {"kind": "dog", "walks": 1, "walsk": 1}},
            "f: pet.walsk: there is no such key: did you mean walks?",
        ),
        (
            {"named": {"rex": {"kind": "dog", "walks": 1, "livse": 1}}},
            "f: named.rex.livse: there is no such key: known are kind, walks",
        ),
        (
            {"several": [{"kind": "cat", "lives": 1, "live": 2}]},
            "f: several[0].live: there is no such key: did you mean lives?",
        ),
        ({"size": "big"}, 'f: size: "big" → should be a valid integer, unable to parse'),
        ({"pte": None}, "f: pte: there is no such key: did you mean pet?"),
    ],
)
def test_unions_and_containers_keep_the_path_of_the_file(
    content: dict[str, object], line: str
) -> None:
    assert _explain(_Home, content)[0].startswith(line)
    assert len(_explain(_Home, content)) == 1


def test_members_of_a_union_complain_once(tmp_path: Path) -> None:
    (line,) = _explain(_Home, {"size": "big"})
    assert line.count('"big"') == 1
    assert "or should be a valid list" in line


def test_a_plan_with_everything_wrong_fits_on_a_screen() -> None:
    lines = _explain(Plan, {f"key{number}": 1 for number in range(100)})
    assert len(lines) == 21
    assert lines[-1].endswith("more")


def test_a_long_value_is_cut() -> None:
    (line,) = _explain(Policy, {"budget": {"epsilon": "x" * 500, "delta": 0.01}})
    assert len(line) < 150


@pytest.mark.parametrize(
    "value", ["2026-13-45", "[" * 5000, '!!int ""', "9" * 5000], ids=["date", "nest", "tag", "long"]
)
def test_yaml_that_its_own_parser_stumbles_over_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(f"budget: {value}")
    with pytest.raises(UsageError, match=r"policy\.yaml: this is not YAML"):
        load_yaml(path)


def test_aliases_are_refused(tmp_path: Path) -> None:
    """A card may come from a stranger: these nine lines would be a thousand million strings."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join(['*a' + str(n - 1)] * 10)}]" for n in range(1, 10)]
    path = tmp_path / "policy.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(UsageError, match=r"line 2: this is not YAML: aliases \(\*\) are not read"):
        load_yaml(path)


@pytest.mark.parametrize("address", ["9464", ":9464", "127.0.0.1", "127.0.0.1:http", "a:65536"])
def test_an_address_without_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(ValidationError, match="not a host and port, such as"):
        SiteConfig(site="ash", data=Path("a.csv"), monitoring=address)
    assert host_and_port("[::1]:9443") == ("::1", 9443)


def test_yaml_that_builds_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("budget: !!python/object/apply:os.system [true]")
    with pytest.raises(UsageError, match="line 1"):
        load_yaml(path)


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (load_plan, "name: a\nprivacy: {epsilon: 1, delta: 1e-5, epsilon: 8}\n"),
        (load_plan, '{"name": "a", "seed": 1, "seed": 2}'),
        (load_plan, "name: a\ntask:\n  labels: [a, b]\n  labels: [c, d]\n"),
        (Policy.load, "budget: {epsilon: 1, delta: 1e-5}\nbudget: {epsilon: 8, delta: 1e-5}\n"),
        (Policy.load, '{"min_cohort": 3, "budget": {"epsilon": 1, "epsilon": 8}}'),
    ],
)
def test_a_key_that_comes_twice_is_refused_with_its_line(
    tmp_path: Path, load: Callable[[Path], Any], text: str
) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="comes twice"):
        load(path)
