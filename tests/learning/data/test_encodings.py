"""A file that is not UTF-8 is read where it says what it is; else the remedy loses no character."""

import gzip
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

from hortus.learning.data.encodings import _CODE_PAGES
from hortus.learning.data.records import read_records
from hortus.learning.tasks.classification import TextClassification
from hortus.runtime.errors import UsageError
from tests.helpers.labelled import texts_of

TASK = TextClassification(labels=("bread", "cake"))

ENGLISH = ["“I don’t know” – she said, €5 or £3", "a 20° oven…", "the baker’s dozen"]
FRENCH = ["Le gâteau était délicieux", "où est la crème brûlée ?", "ça coûte cher, l’œuf"]
GERMAN = ["süße Brötchen für Jörg", "„Größe“ ist § 5", "Käse, 5 €"]
SPANISH = ["¿Dónde está el pingüino?", "el niño comió pan", "¡Qué tarta! Año tras año"]
NORDIC = ["blåbærgrød på bordet", "smörgås åt alla", "ærlig kø på gården"]
POLISH = ["chleb i bułka z żurawiną", "łąka pachnie świeżością", "proszę o ćwierć"]
CZECH = ["příliš žluťoučký kůň", "čerstvý chléb z pekárny", "děkuji, řekl pekař"]
HUNGARIAN = ["őszi kenyér és tűz", "a pék süteménye jó", "űrhajó hősök zöld"]
RUSSIAN = ["Свежий хлеб из печи", "Торт для Анны", "Булочка с маком"]
GREEK = ["Φρέσκο ψωμί", "Γλυκό και τούρτα", "Καλημέρα σας"]
TURKISH = ["Taze ekmek ve börek", "Işık şekerli çörek", "güneş doğdu, çığ düştü"]
JAPANESE = ["焼きたてのパン", "ケーキをください", "朝の挨拶です"]


def content(texts: list[str]) -> str:
    rows = [f'"{text}",{"cake" if i % 2 else "bread"}\r\n' for i, text in enumerate(texts)]
    return "text,label\r\n" + "".join(rows)


def refusal(path: Path) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read_records(path, TASK)
    return caught.value


def follow(remedy: str, folder: Path) -> Path:
    """Runs the command in a remedy; returns the file that it wrote."""
    subprocess.run(["bash", "-euo", "pipefail", "-c", remedy], check=True, cwd=folder)
    return Path(shlex.split(remedy)[-1])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be-bom", "utf-8"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_what_a_mark_states_is_read(
    tmp_path: Path, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    text = content(POLISH + JAPANESE)
    data = (
        b"\xfe\xff" + text.encode("utf-16-be")
        if encoding == "utf-16-be-bom"
        else text.encode(encoding)
    )
    (tmp_path / "records.csv").write_bytes(pack(data))
    assert texts_of(read_records(tmp_path / "records.csv", TASK)) == (*POLISH, *JAPANESE)


CONVERTED = [
    ("utf-16-le", ENGLISH),
    ("utf-16-be", GERMAN),
    ("utf-16-le", JAPANESE),
    ("utf-16-be", RUSSIAN),
    ("utf-32-le", POLISH),
    ("utf-32-be", CZECH),
    ("cp1252", ENGLISH),
    ("cp1252", FRENCH),
    ("cp1252", GERMAN),
    ("cp1252", SPANISH),
    ("latin-1", SPANISH),
    ("cp1252", NORDIC),
    ("cp1250", POLISH),
    ("cp1250", CZECH),
    ("iso8859-2", POLISH),
    ("cp1251", RUSSIAN),
    ("koi8-r", RUSSIAN),
    ("cp1253", GREEK),
    ("mac-roman", FRENCH),
    ("cp850", NORDIC),
    ("cp1254", TURKISH),
]


@pytest.mark.parametrize(("encoding", "texts"), CONVERTED)
def test_the_remedy_keeps_every_character(tmp_path: Path, encoding: str, texts: list[str]) -> None:
    path = tmp_path / "ward's records [1].csv"
    path.write_bytes(content(texts).encode(encoding))
    remedy = refusal(path).remedy or ""
    assert remedy.startswith("iconv -f ")
    converted = follow(remedy, tmp_path)
    assert converted.read_bytes().decode() == content(texts)
    assert texts_of(read_records(converted, TASK)) == tuple(texts)


@pytest.mark.parametrize("packer", ["gzip", "zstd"])
@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le"])
def test_the_remedy_of_a_compressed_file_unpacks_it(
    tmp_path: Path, packer: str, encoding: str
) -> None:
    path = tmp_path / f"records.CSV.{'gz' if packer == 'gzip' else 'zst'}"
    with pyarrow.CompressedOutputStream(str(path), packer) as stream:
        stream.write(content(FRENCH).encode(encoding))
    converted = follow(refusal(path).remedy or "", tmp_path)
    assert converted.name == "records.utf-8.CSV"
    assert texts_of(read_records(converted, TASK)) == tuple(FRENCH)


@pytest.mark.parametrize(
    ("data", "line", "told"),
    [
        # Bytes that several encodings make words of: the reader sees what each would make of them.
        (content(["tr\xe8s bon"]).encode("latin-1"), 2, "0xe8 is è in CP1252, č in CP1250"),
        # Half UTF-8, half not: no conversion of the whole keeps both.
        (content(FRENCH).encode() + content(FRENCH).encode("cp1252"), 6, "several encodings"),
        # Cut in the middle of a character.
        (
            content(FRENCH).encode()[: content(FRENCH).encode().index(b"\xa2")],
            2,
            "Save it as UTF-8",
        ),
        (content(JAPANESE).encode("shift-jis"), 2, "UTF-8 in the program that wrote it"),
        (content(JAPANESE).encode("euc-jp"), 2, "UTF-8 in the program that wrote it"),
        ("text,label\nça,cake\n".encode("utf-16") + b"\x00", 3, "Export it again"),
        (b"\xef\xbb\xbf" + content(FRENCH).encode("cp1252"), 2, "begins as UTF-8"),
        (b"text,label\rok,bread\rna\xefve,cake\r", 3, "0xef is ï in CP1252"),
    ],
    ids=["ambiguous", "mixed", "cut", "shift-jis", "euc-jp", "utf-16-cut", "mark", "cr-only"],
)
def test_where_no_command_is_sure_to_keep_every_character_none_is_given(
    tmp_path: Path, data: bytes, line: int, told: str
) -> None:
    path = tmp_path / "records.csv"
    path.write_bytes(data)
    error = refusal(path)
    assert told in (error.remedy or "")
    assert "iconv -f" not in (error.remedy or "")
    assert error.where == f"{path}, line {line}"


def test_a_far_fault_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "records.csv"
    rows = b"text,label\r\n" + b"a plain text,bread\r\n" * 20_000
    path.write_bytes(rows + b"cr\xe8me br\xfbl\xe9e,cake\r\n" + rows)
    assert refusal(path).where == f"{path}, line 20002"


def test_python_and_iconv_read_each_code_page_alike() -> None:
    for page in _CODE_PAGES:
        for byte in range(0x80, 0x100):
            convert = ["iconv", "-f", page.name, "-t", "UTF-8"]
            run = subprocess.run(convert, check=False, input=bytes([byte]), capture_output=True)
            ours = bytes([byte]).decode(page.name, "ignore")
            if page.name == "MACINTOSH" and byte in {0xC6, 0xF0}:
                continue  # Δ or ∆, and Apple's logo: neither is in a text that is taken for one
            assert ours == (run.stdout.decode() if run.returncode == 0 else ""), (page.name, byte)


def test_a_zero_in_a_text_is_a_character_of_it(tmp_path: Path) -> None:
    path = tmp_path / "records.csv"
    path.write_bytes(content(["a\0b", "\0"]).encode())
    assert texts_of(read_records(path, TASK)) == ("a\0b", "\0")
