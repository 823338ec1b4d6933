"""Encodings: which one a file states, and how to convert one that is not UTF-8, losing nothing.

A file whose first bytes do not say how it is encoded can only be guessed at, and a wrong guess puts
other characters into what is trained on. So nothing is converted in silence; and a command that
converts is only given where one encoding alone makes words of a known language of every line.
"""

import codecs
import io
import re
import shlex
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hortus.learning.data.packing import PACKED_SUFFIXES, open_bytes, packed
from hortus.runtime.errors import UsageError

_MARKS = {  # in this order: UTF-32's little-endian mark begins as UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_CHUNK = 2**16
_SAMPLED_LINES = 2000
_FLUENT_SHARE = 0.9
_WIDE_SHARE, _LEAST_WIDE_SHARE = 0.25, 0.05  # of zero bytes
_NAMED_READINGS = 4
_UNKNOWN = "Save it as UTF-8 in the program that wrote it (in Excel: CSV UTF-8)."
_BETWEEN_LETTERS = "’‘–—·\xad"
_SYMBOLS = "°©®±×÷¬´¨¯¸"  # of those of their categories that people write


@dataclass(frozen=True, slots=True)
class _CodePage:
    """An encoding of one byte a character, and the alphabets, beyond ASCII, written in it."""

    name: str  # as iconv knows it, and Python
    alphabets: tuple[str, ...]
    is_rare: bool = False  # considered where no other fits


_WESTERN = (
    "àâæçéèêëîïôœùûüÿñ",  # French, with names from Spain
    "áéíóúüñçàèïòª·º",  # Spanish, Catalan
    "àáâãçéêíóôõúüªº",  # Portuguese
    "äöüßéèàâêç",  # German, with words from French
    "àèéìíîòóùú",  # Italian
    "åäöæøéèüóòôêá",  # Danish, Norwegian, Swedish, Finnish
    "éëïöüèáóúíêâôç",  # Dutch
    "áéíóúýðþæöô",  # Icelandic
)
_CENTRAL = (
    "ąćęłńóśźż",  # Polish
    "áčďéěíňóřšťúůýžäöü",  # Czech
    "áäčďéíľňóôšťúýž",  # Slovak, without ĺ and ŕ: its rarest, and French in another encoding
    "áéíóöőúüű",  # Hungarian
    "ăâîşţ",  # Romanian
    "čćđšž",  # Croatian, Slovene
)
_CYRILLIC = ("".join(map(chr, range(0x430, 0x460))) + "ґ",)
_GREEK = ("".join(map(chr, range(0x3AC, 0x3CF))) + "ΐ",)
_CODE_PAGES = (
    _CodePage("CP1252", _WESTERN),
    _CodePage("CP1250", _CENTRAL),
    _CodePage("ISO-8859-15", _WESTERN),
    _CodePage("ISO-8859-2", _CENTRAL),
    _CodePage("CP1254", ("âçğıîöşûüi\u0307",)),  # Turkish; İ in small letters is two characters
    _CodePage("CP1251", _CYRILLIC),
    _CodePage("KOI8-R", _CYRILLIC),
    _CodePage("CP1253", _GREEK),
    _CodePage("MACINTOSH", _WESTERN, is_rare=True),
    _CodePage("CP850", _WESTERN, is_rare=True),
)


def marked(head: bytes) -> str | None:
    """Returns the encoding that a byte order mark states, as Python calls it."""
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)


def explain_without_mark(path: Path, head: bytes, share: float = _WIDE_SHARE) -> UsageError | None:
    """Returns what is wrong with a text in UTF-16 or UTF-32 that has no byte order mark.

    Args:
        path: The file.
        head: The first bytes of the text.
        share: Least share of zeros in every second byte; in ASCII it is 1.
    """
    encoding = _wide(head, share)
    if encoding is None or not _decodes(path, encoding):
        return None
    return UsageError(
        f"this is {encoding} without a byte order mark, not UTF-8",
        where=str(path),
        remedy=_command(path, encoding),
    )


def explain(path: Path) -> UsageError:
    """Returns what is wrong with a text file's encoding, and how to mend it and lose nothing."""
    with open_bytes(path) as stream:
        head = stream.read(_CHUNK)
    stated = marked(head)
    if stated is None and (wide := explain_without_mark(path, head, _LEAST_WIDE_SHARE)):
        return wide
    encoding = stated or "utf-8"
    line, byte = _first_fault(path, encoding)
    name = encoding.removesuffix("-sig").upper()
    problem, where = f"byte 0x{byte:02x} is not {name}", f"{path}, line {line}"
    if stated:
        remedy = f"It begins as {name}: it is damaged here. Export it again."
    elif _is_partly_utf8(path):
        problem += ", though other characters are"
        remedy = f"It is damaged, or put together from several encodings. {_UNKNOWN}"
    else:
        remedy = _remedy(path)
    return UsageError(problem, where=where, remedy=remedy)


def _remedy(path: Path) -> str:
    """Returns the command that converts a file of one byte a character, or what must be known."""
    used = _bytes_beyond_ascii(path)
    readings = _readings(used, list(_sampled_lines(path)))
    if not readings:
        return _UNKNOWN
    if len(readings) == 1:
        return _command(path, readings.popitem()[1])
    place = next(i for i in range(len(used)) if len({reading[i] for reading in readings}) > 1)
    names: dict[str, str] = {}
    for reading, name in readings.items():
        names.setdefault(reading[place], name)
    choice = [f"{character} in {name}" for character, name in names.items()][:_NAMED_READINGS]
    return (
        f"Byte 0x{used[place]:02x} is {', '.join(choice)}: convert it from the one that is right, "
        "for instance with iconv. Or s" + _UNKNOWN[1:]
    )


def _readings(used: bytes, lines: Sequence[bytes]) -> dict[str, str]:
    """Returns what code pages make of the bytes used, with the name of the first that does so.

    Args:
        used: The bytes beyond ASCII that a file holds.
        lines: Lines that hold some of them.

    Returns:
        Only readings that make words of a known language of nearly every line.
    """
    readings: dict[str, str] = {}
    for page in _CODE_PAGES:
        if page.is_rare and readings:
            break
        try:
            reading = used.decode(page.name)
        except UnicodeDecodeError:
            continue
        fluent = sum(_is_sentence(line.decode(page.name), page.alphabets) for line in lines)
        if fluent >= _FLUENT_SHARE * len(lines):
            readings.setdefault(reading, page.name)
    return readings


def _is_sentence(line: str, alphabets: Iterable[str]) -> bool:
    """Whether the characters beyond ASCII are of one language and stand where they may."""
    beyond = [i for i, character in enumerate(line) if not character.isascii()]
    if not all(_may_stand(line[i], line[:i][-1:], line[i + 1 : i + 2]) for i in beyond):
        return False
    letters = {
        c for c in "".join(line[i] for i in beyond).lower() if unicodedata.category(c)[0] == "L"
    }
    return any(letters <= set(alphabet) for alphabet in alphabets)


def _may_stand(character: str, before: str, after: str) -> bool:
    """Whether a character beyond ASCII is plausible between its neighbours."""
    category = unicodedata.category(character)
    if category[0] == "L":
        is_mid_word_capital = before.islower() and character.isupper()
        is_before_capital = character.islower() and after.isupper()
        is_foreign = not unicodedata.name(character).startswith("LATIN")
        is_mixed = is_foreign and any(c.isascii() and c.isalpha() for c in before + after)
        return not (is_mid_word_capital or is_before_capital or is_mixed or after.isdigit())
    if category in {"Cc", "Co", "Sk", "Sm", "So"} and character not in _SYMBOLS:
        return False
    if category == "No" and after.isalpha():
        return False
    return character in _BETWEEN_LETTERS or not (before.isalpha() and after.isalpha())


def _command(path: Path, encoding: str) -> str:
    """Returns a shell command that converts a file."""
    codec = packed(path)
    suffixes = [s for s in path.suffixes if codec is None or s.lower() not in PACKED_SUFFIXES]
    stem = path.name.partition(".")[0] or "records"
    target = shlex.quote(str(path.with_name(f"{stem}.utf-8{''.join(suffixes[-1:])}")))
    source, convert = shlex.quote(str(path)), f"iconv -f {encoding} -t UTF-8"
    if codec:
        return f"{codec} -dc < {source} | {convert} > {target}"
    return f"{convert} {source} > {target}"


def _wide(head: bytes, share: float) -> str | None:
    if head[1:4] == b"\0\0\0" and head[:1] != b"\0":
        return "UTF-32LE"
    if head[:3] == b"\0\0\0" and head[3:4] != b"\0":
        return "UTF-32BE"
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if min(even, odd) or max(even, odd) < max(2, share * len(head) / 2):
        return None
    return "UTF-16BE" if even else "UTF-16LE"


def _decodes(path: Path, encoding: str) -> bool:
    try:
        for _ in _decoded(path, encoding, "strict"):
            pass
    except UnicodeDecodeError:
        return False
    return True


def _decoded(path: Path, encoding: str, errors: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    with open_bytes(path) as stream:
        while chunk := stream.read(_CHUNK):
            yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)


def _first_fault(path: Path, encoding: str) -> tuple[int, int]:
    """Returns the line, from 1, and the value of the first byte that is not of an encoding."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
    line = 1
    with open_bytes(path) as stream:
        while True:
            chunk, state = stream.read(_CHUNK), decoder.getstate()
            try:
                line += decoder.decode(chunk, final=not chunk).count("\n")
            except UnicodeDecodeError as error:
                decoder.setstate(state)
                return line + _lines_before_fault(decoder, chunk), error.object[error.start]
            if not chunk:
                raise UsageError("it changed while it was read", where=str(path))


def _lines_before_fault(decoder: io.IncrementalNewlineDecoder, chunk: bytes) -> int:
    count = 0
    with suppress(UnicodeDecodeError):
        for byte in chunk:
            count += decoder.decode(bytes([byte])).count("\n")
    return count


def _is_partly_utf8(path: Path) -> bool:
    """Whether some characters beyond ASCII are UTF-8, in a file where others are not."""
    good = re.compile("[^\x00-\x7f\udc80-\udcff]")
    return any(good.search(text) for text in _decoded(path, "utf-8", "surrogateescape"))


def _bytes_beyond_ascii(path: Path) -> bytes:
    seen: set[int] = set()
    with open_bytes(path) as stream:
        while chunk := stream.read(_CHUNK):
            seen.update(chunk)
    return bytes(sorted(byte for byte in seen if byte >= 0x80))


def _sampled_lines(path: Path) -> Iterator[bytes]:
    """Yields lines with bytes beyond ASCII, as many and as long as a guess needs."""
    count = 0
    with open_bytes(path) as stream:
        while count < _SAMPLED_LINES and (line := stream.readline(_CHUNK)):
            if not line.isascii():
                count += 1
                yield line
