"""Output in any encoding: cron's log, an old container, a file name that is not UTF-8."""

import codecs
import io
import sys

_POLICY = "hortus.in-words"
_IN_ASCII = {
    "ε": "eps",
    "δ": "delta",
    "σ": "sigma",
    "γ": "gamma",
    "α": "alpha",
    "η": "eta",
    "∞": "inf",
    "‖": "|",
    "√": "sqrt",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "±": "+-",
    "×": "x",
    "·": "*",
    "²": "^2",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "→": "->",
    "←": "<-",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "•": "*",
    "█": "#",
    "✓": "ok",
    "✗": "no",
}


def write_in_any_encoding() -> None:
    """Lets standard output and error spell out characters that their encoding lacks.

    A symbol must not end a run: in a Latin-1 log ε becomes "eps". Characters without a name become a
    question mark, and so does half a surrogate pair, which stands for a byte of a file's name.
    """
    codecs.register_error(_POLICY, _in_words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_POLICY)


def _in_words(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    words = "".join(_IN_ASCII.get(character, "?") for character in lost)
    return words, error.end
