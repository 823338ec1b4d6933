"""Changes to what a parser reads: of its bytes, and of what they mean.

A change takes bytes and a source of chance, and returns other bytes; the same chance makes the same ones.
"""

import copy
import gzip
import io
import json
import sqlite3
import zipfile
from collections.abc import Callable, Sequence
from contextlib import closing
from random import Random
from typing import Any, cast

import yaml
from google.protobuf.message import DecodeError, Message

Change = Callable[[bytes, Random], bytes]

_LONGEST = 2**17
_MOST_PLACES = 2000
_TEXTS = (
    "", " ", "x", "ash", "birch", "server", "0", "-1", "1e999", "nan", "null", "true", "~", "..",
    "../../etc/passwd", "\x00", "\x1b[2J", "\u2028", "\ufeff", "ä", "\U0001f331", "a" * 64, "0" * 32,
    "f" * 128, "x" * 5000, "2026-02-30", "9999-12-31", "127.0.0.1:99999", "[::1]:1", "0x1p+5000",
    "0x1.8p+0", "inf", "-0x0.0p+0", "&a [*a]", "!!python/object:os.system",
)  # fmt: skip
_NUMBERS = (
    0, 1, -1, 2, 63, 64, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1,
    2**63, -(2**63), 2**64 - 1, 10**30, 10**400, 0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, 1.5, 1e-5,
    float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
_OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[[]]], {"": None}, [None] * 50)


def of_bytes(data: bytes, chance: Random) -> bytes:
    """Flips, cuts, repeats, moves or inserts some bytes."""
    whole = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        start = chance.randint(0, len(whole))
        end = min(len(whole), start + chance.choice((1, 1, 2, 4, 8, 32, 256)))
        piece = whole[start:end]
        match chance.randrange(6):
            case 0:
                whole[start:end] = bytes(b ^ (1 << chance.randrange(8)) for b in piece)
            case 1:
                del whole[start:end]
            case 2:
                whole[start:start] = piece * chance.choice((1, 2, 50))
            case 3:
                whole[start:end] = chance.randbytes(len(piece))
            case 4:
                whole[start:start] = chance.choice(_TEXTS).encode()
            case _:
                place = chance.randint(0, len(whole))
                whole[place:place] = piece
    return bytes(whole[:_LONGEST])


def anything(chance: Random) -> Any:
    """Returns a value that nobody expects."""
    kind: Sequence[Any] = chance.choice((_TEXTS, _NUMBERS, _OTHERS))
    return copy.deepcopy(chance.choice(kind))


def near(value: Any, chance: Random) -> Any:
    """Returns another value of the same kind, or none."""
    if chance.random() < 0.3:
        return anything(chance)
    match value:
        case bool():
            return not value
        case int():
            real = float(value) if abs(value) < 2**64 else 0.5
            return chance.choice((value + 1, value - 1, -value, value * 2, real))
        case float():
            return chance.choice((value * 2, -value, value + 1e-9, 1 / value if value else 1.0))
        case str():
            return of_bytes(value.encode(), chance).decode(errors="replace")
        case bytes():
            return of_bytes(value, chance)
    return anything(chance)


def of_tree(tree: Any, chance: Random) -> Any:
    """Changes, removes, repeats, renames, moves or adds a part of lists and mappings."""
    tree = copy.deepcopy(tree)
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = _places(tree)
        if not places:
            return anything(chance)
        if len(places) > _MOST_PLACES:
            return tree
        holder, key = chance.choice(places)
        match chance.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[chance.choice(_TEXTS)] = holder.pop(key)
            case 1 | 2:
                other, place = chance.choice(places)
                holder[key] = copy.deepcopy(other[place])
            case 3 if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case 3 | 4 if isinstance(holder, dict):
                holder[chance.choice(_TEXTS)] = anything(chance)
            case 5:
                holder[key] = [holder[key]]
            case _:
                holder[key] = near(holder[key], chance)
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        holder = waiting.pop()
        keys = range(len(holder)) if isinstance(holder, list) else holder
        if isinstance(holder, dict | list):
            found += [(holder, key) for key in keys]
            waiting += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    return found


def of_json(data: bytes, chance: Random) -> bytes:
    """Changes what a JSON text means, or its bytes."""
    if chance.random() < 0.3:
        return of_bytes(data, chance)
    try:
        tree = of_tree(json.loads(data), chance)
        canonical = {"sort_keys": True, "separators": (",", ":"), "ensure_ascii": False}
        return json.dumps(tree, **cast("Any", canonical if chance.random() < 0.8 else {})).encode()
    except (ValueError, RecursionError, TypeError):
        return of_bytes(data, chance)


def of_lines(change: Change) -> Change:
    """Makes a change of one line into one of a text of lines."""

    def changed(data: bytes, chance: Random) -> bytes:
        lines = data.split(b"\n")
        place = chance.randrange(len(lines))
        match chance.randrange(8):
            case 0:
                del lines[place]
            case 1:
                lines.insert(place, chance.choice(lines))
            case 2:
                return of_bytes(data, chance)
            case _:
                lines[place] = change(lines[place], chance)
        return b"\n".join(lines)[:_LONGEST]

    return changed


def of_yaml(data: bytes, chance: Random) -> bytes:
    """Changes what a YAML text means, or its bytes."""
    if chance.random() < 0.3:
        return of_bytes(data, chance)
    try:
        tree = of_tree(yaml.load(data, yaml.CSafeLoader), chance)
        return yaml.dump(tree, Dumper=yaml.CSafeDumper, allow_unicode=True).encode()
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError, OverflowError):
        return of_bytes(data, chance)


def of_message(kind: type[Message]) -> Change:
    """Makes a change of a protobuf message: of a field somewhere in it, or of its bytes."""

    def changed(data: bytes, chance: Random) -> bytes:
        if chance.random() < 0.2:
            return of_bytes(data, chance)
        try:
            message = kind.FromString(data)
        except DecodeError:
            return of_bytes(data, chance)
        for _ in range(chance.choice((1, 1, 2, 3))):
            _change_field(message, chance)
        return message.SerializeToString(deterministic=True)[: 4 * 2**20]

    return changed


def _change_field(message: Any, chance: Random) -> None:
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    set_ = [field for field, _ in message.ListFields()]
    field = chance.choice(set_ if set_ and chance.random() < 0.8 else fields)
    if chance.random() < 0.1:
        message.ClearField(field.name)
    elif field.is_repeated:
        _change_items(getattr(message, field.name), field, chance)
    elif field.message_type is not None:
        _change_field(getattr(message, field.name), chance)
        getattr(message, field.name).SetInParent()
    else:
        _set(message, field, near(getattr(message, field.name), chance))


def _change_items(items: Any, field: Any, chance: Random) -> None:
    if not items:
        if field.message_type is not None:
            items.add()
        return
    place = chance.randrange(len(items))
    match chance.randrange(4):
        case 0:
            del items[place]
        case 1:
            items.append(items[place])
        case 2:
            rest = list(items)
            chance.shuffle(rest)
            del items[:]
            items.extend(rest)
        case _ if field.message_type is not None:
            _change_field(items[place], chance)
        case _:
            items[place] = str(near(items[place], chance)).encode(errors="replace").decode()


def _set(message: Any, field: Any, value: Any) -> None:
    """Sets a field to a value, or to the nearest that it can hold."""
    if field.type == field.TYPE_BYTES and isinstance(value, str):
        value = value.encode(errors="replace")
    if field.type == field.TYPE_STRING:
        value = str(value).encode(errors="replace").decode()
    if isinstance(value, bool):
        value = int(value)
    try:
        setattr(message, field.name, value)
    except (TypeError, ValueError, OverflowError):
        message.ClearField(field.name)


def of_gzip(inner: Change) -> Change:
    """Makes a change of a compressed file: of what is in it, or of its bytes."""

    def changed(data: bytes, chance: Random) -> bytes:
        if chance.random() < 0.2:
            return of_bytes(data, chance)
        try:
            content = gzip.decompress(data)
        except Exception:  # noqa: BLE001 - whatever gzip says of what was changed before
            return of_bytes(data, chance)
        return gzip.compress(inner(content, chance), mtime=0)

    return changed


def of_zip(changes: dict[str, Change]) -> Change:
    """Makes a change of a zip file: of a member, by the start of its name, of its names or its bytes."""

    def changed(data: bytes, chance: Random) -> bytes:
        if chance.random() < 0.3:
            return of_bytes(data, chance)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as bundle:
                members = [(name, bundle.read(name)) for name in bundle.namelist()]
        except Exception:  # noqa: BLE001 - whatever zipfile says of what was changed before
            return of_bytes(data, chance)
        if not members:
            return of_bytes(data, chance)
        place = chance.randrange(len(members))
        name, content = members[place]
        match chance.randrange(10):
            case 0:
                del members[place]
            case 1:
                members.append((chance.choice(members)[0], content))
            case 2:
                members[place] = (chance.choice(_TEXTS) or name, content)
            case _:
                change = next(
                    (c for start, c in changes.items() if name.startswith(start)), of_bytes
                )
                members[place] = (name, change(content, chance))
        return zipped(members)

    return changed


def zipped(members: Sequence[tuple[str, bytes]]) -> bytes:
    """Returns a zip file of members."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members:
            bundle.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return target.getvalue()


def framed(frames: Sequence[bytes]) -> bytes:
    """Joins frames: each after four bytes with its length."""
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


def frames_of(data: bytes) -> list[bytes]:
    """Takes frames apart; a length that is too large takes what there is."""
    found = []
    while len(data) >= 4:
        end = 4 + int.from_bytes(data[:4], "big")
        found.append(data[4:end])
        data = data[end:]
    return found


def of_frames(change: Change) -> Change:
    """Makes a change of one frame into one of a sequence of them."""

    def changed(data: bytes, chance: Random) -> bytes:
        frames = frames_of(data)
        if not frames:
            return of_bytes(data, chance)
        place, other = chance.randrange(len(frames)), chance.randrange(len(frames))
        match chance.randrange(8):
            case 0:
                del frames[place]
            case 1:
                frames.insert(other, frames[place])
            case 2:
                frames[place], frames[other] = frames[other], frames[place]
            case _:
                frames[place] = change(frames[place], chance)
        return framed(frames)

    return changed


def of_sqlite(change: Change) -> Change:
    """Makes a change of a text into one of a database: of a value, a row, or some bytes of a page."""

    def changed(data: bytes, chance: Random) -> bytes:
        if chance.random() < 0.3:
            return of_bytes(data, chance)
        try:
            with closing(sqlite3.connect(":memory:")) as connection:
                # A database in memory has no write-ahead log: bytes 18 and 19 say that this one has.
                connection.deserialize(data[:18] + b"\x01\x01" + data[20:])
                _change_row(connection, change, chance)
                connection.commit()
                changed = connection.serialize()
        except (sqlite3.Error, OverflowError, UnicodeError, TypeError):
            return of_bytes(data, chance)
        return changed[:18] + data[18:20] + changed[20:]

    return changed


def _change_row(connection: sqlite3.Connection, change: Change, chance: Random) -> None:
    for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
        connection.execute(f"DROP TRIGGER {trigger}")
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    table = chance.choice([name for (name,) in found])
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    rows = [row[0] for row in connection.execute(f"SELECT rowid FROM {table}")]
    if not rows:
        return
    row, column = chance.choice(rows), chance.choice(columns)
    (value,) = connection.execute(
        f"SELECT {column} FROM {table} WHERE rowid = ?", (row,)
    ).fetchone()
    if chance.random() < 0.1:
        connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
        return
    if isinstance(value, str) and chance.random() < 0.7:
        value = change(value.encode(), chance).decode(errors="replace")
    else:
        value = near(value, chance)
    if isinstance(value, list | dict):
        value = json.dumps(value)
    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
