"""The expressions that docs/style.md advises against appear nowhere that somebody reads, in pages or in code."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs/style.md", ROOT / "docs/plan.md"}),
]
# Folders whose docstrings, comments and messages are written as the pages are.
ROOMS = (
    *("api", "cli", "client", "pages", "parties", "planning", "privacy", "protocol"),
    *("runtime", "server", "strategies"),
)
BETTER = {
    r"\b(?:goes|go|gone|went) on\b": "resumes, continues",
    r"\banew\b": "again, new",
    r"(?:^|[.:;]\s)Who [^.?|]*\.": "whoever, anyone who, or the noun",
    r"\b(?:for|to|of|from|than|by|with|on) who (?:is|has|can|does|wants|would|comes|prefers)\b": (
        "for anyone who, to the person who"
    ),
    r"\b(?:is|are|was|were|be) none\b": "say what there is instead",
    r"\bso (?:many|few)\b(?! that\b)": "this many, as few as that",
    r"\b(?i:leave|leaves|leaving|left) (?:\w+ )?away\b": "omit",
    r"\bby (?:itself|themselves)\b": "alone, on its own, separately",
    r"\bat hand\b": "available",
    r"\bcut short\b": "interrupted",
    r"\btold of\b": "reported",
    r"\bis told (?:so|that)\b": "the subject learns, receives",
}
EXPRESSIONS = {
    re.compile(pattern.replace(" ", r"\s+"), re.MULTILINE): better
    for pattern, better in BETTER.items()
}


def faults(text: str, line: int = 1) -> list[str]:
    """Returns each expression of a text that starts at a line, with its place and a better one."""
    return [
        f"line {line + text.count(chr(10), 0, match.start())}: {match[0]!r}: better: {better}"
        for expression, better in EXPRESSIONS.items()
        for match in expression.finditer(text)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_written_as_the_style_says(page: Path) -> None:
    assert faults(page.read_text(encoding="utf-8")) == []


def texts(source: str) -> Iterator[tuple[str, int]]:
    """Every string and comment of a module, each with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, node.lineno
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string, token.start[0]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_written_as_the_style_says(room: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {fault}"
        for path in sorted((ROOT / room).rglob("*.py"))
        if "_pb2" not in path.name
        for text, line in texts(path.read_text(encoding="utf-8"))
        for fault in faults(text, line)
    ]
    assert found == []


@pytest.mark.parametrize(
    "sentence",
    [
        "The run goes on by itself.",
        "An upload that broke\ngoes on.",
        "Compare them anew.",
        "Who spoils a session is left out.",
        "An address for who has the token.",
        "It is none.",
        "The masks hold while so few are honest.",
        "Leave it away.",
        "A failure is told of later.",
    ],
)
def test_what_the_style_refuses_is_found(sentence: str) -> None:
    (fault, *_) = faults(f"Text.\n\n{sentence}\n", 7)
    assert fault.startswith("line 10" if "\n" in sentence else "line 9")


@pytest.mark.parametrize(
    "sentence",
    [
        "## Who may look",
        "Who approved it? The operator.",
        "There are so many that it takes a day.",
        "Whoever has the key can sign.",
        "Anyone who has it, and the people who own it.",
    ],
)
def test_good_sentences_pass(sentence: str) -> None:
    assert faults(sentence) == []
