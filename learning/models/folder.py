"""The files of a base model: found on this machine only, identified by their contents, never run."""

import hashlib
import importlib.util
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hortus.runtime.canonical import KeyTwiceError, distinct_keys
from hortus.runtime.errors import UsageError, in_one_line

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
GGUF = ".gguf"
_CONFIG = "config.json"
_HIDDEN = (".", "__pycache__")
_NEVER_READ = {".py", ".pyc", ".md"}
_NO_HUB = "Hortus contacts no hub: give a folder, or package:NAME/FOLDER for an installed package."
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FLOATS = {"F64", "F32", "F16", "BF16"}
_INTEGERS = {"I64", "I32", "BOOL"}  # of tables of positions, which some checkpoints hold
_OTHER_WEIGHTS = {
    "tf_model.h5": "weights for TensorFlow",
    "flax_model.msgpack": "weights for Flax",
    "*.onnx": "an ONNX graph",
    "adapter_model.safetensors": "an adapter, not a base model",
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a safetensors file says of one of its tensors.

    Attributes:
        dtype: Such as F32.
        shape: Its shape.
        file: The file it is in.
    """

    dtype: str
    shape: tuple[int, ...]
    file: str


def resolve_model(spec: str, base: Path) -> Path:
    """Finds a base model: its folder, or its GGUF file.

    Args:
        spec: A folder or a GGUF file, or `package:NAME/FOLDER` for one inside an installed Python package.
        base: What a relative path is relative to.

    Raises:
        UsageError: There is no such package, folder or file, or it holds no model.
    """
    where = f"model: {spec}"
    if spec.startswith("package:"):
        path = _in_package(spec.removeprefix("package:"), where)
    else:
        path = base / spec
    try:
        _check_there(path, spec, where)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no folder is called so"
        problem = f"it cannot be read: {reason}"
        raise UsageError(problem, where=in_one_line(where), remedy=_NO_HUB) from error
    return path


def _in_package(spec: str, where: str) -> Path:
    name, _, inner = spec.partition("/")
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None or found.origin is None:
        raise UsageError(
            f"the Python package {name!r} is not installed",
            where=where,
            remedy=f"Install it: pip install {name.replace('_', '-')}",
        )
    return Path(found.origin).parent / inner


def _check_there(path: Path, spec: str, where: str) -> None:
    if path.suffix == GGUF and path.is_file():
        return
    if not path.is_dir() and _HUB_NAME.fullmatch(spec):
        raise UsageError(
            f"there is no folder {path}",
            where=where,
            remedy=f"{_NO_HUB} If it is the name of a model on a hub, download it first, where there is a "
            f"network: hf download {spec} --local-dir models/{spec.rpartition('/')[2]}",
        )
    files = sorted(path.glob(f"*{GGUF}"))
    is_saved = (path / WEIGHTS).is_file() or (path / INDEX).is_file()
    if files and not is_saved:
        if len(files) > 1:
            raise UsageError(
                f"there are {len(files)} GGUF files in {path}",
                where=where,
                remedy=f"Name the one that is meant, such as {Path(spec) / files[0].name}.",
            )
        return
    if not (path / _CONFIG).is_file():
        raise UsageError(f"there is no {_CONFIG} in {path}", where=where, remedy=_NO_HUB)
    if is_saved:
        return
    if any(path.glob("pytorch_model*.bin")):
        raise UsageError(
            f"the weights in {path} are pickled (pytorch_model.bin), which can run code when they are read",
            where=where,
            remedy=f"Write them as safetensors, once: hortus model convert {path}",
        )
    other = next((kind for name, kind in _OTHER_WEIGHTS.items() if any(path.glob(name))), None)
    raise UsageError(
        f"there is no {WEIGHTS}, and no {INDEX}, in {path}" + (f", but {other}" if other else ""),
        where=where,
        remedy="Hortus reads models that transformers has saved: save_pretrained(FOLDER).",
    )


def gguf_file(path: Path) -> Path | None:
    """Returns the GGUF file that a model is read from; None for a folder that transformers has saved."""
    if path.suffix == GGUF and path.is_file():
        return path
    if (path / WEIGHTS).is_file() or (path / INDEX).is_file():
        return None
    return next(iter(sorted(path.glob(f"*{GGUF}"))), None)


def transformers_source(path: Path) -> dict[str, Any]:
    """Returns the arguments by which transformers finds a model, a configuration or a tokenizer."""
    file = gguf_file(path)
    if file is None:
        return {"pretrained_model_name_or_path": path}
    return {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}


def config_place(path: Path) -> str:
    """Returns the file that says what a model's architecture is."""
    return str(gguf_file(path) or path / _CONFIG)


def is_relative_model(spec: str) -> bool:
    """Whether a plan's base model is a folder that is found from the plan's own."""
    return not spec.startswith("package:") and not Path(spec).is_absolute()


def model_digest(path: Path) -> str:
    """Returns the SHA-256 over names and contents of all files in a model's folder, or of one GGUF file.

    Whatever `transformers` comes to read there is among them. Left out are hidden files, Python code,
    which is never run, and Markdown.

    Raises:
        UsageError: A folder within it is a link, or a file cannot be read.
    """
    total = hashlib.sha256()
    try:
        for file in _model_files(path):
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").digest()
            within = file.relative_to(path).as_posix() if file != path else file.name
            name = os.fsencode(within)
            total.update(len(name).to_bytes(4, "big") + name + content)
    except OSError as error:
        raise unreadable(path, "model", error) from error
    return total.hexdigest()


def _model_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = []
    for folder, inner, names in os.walk(path):
        inner[:] = [name for name in inner if not name.startswith(_HIDDEN)]
        if links := [name for name in inner if (Path(folder) / name).is_symlink()]:
            raise UsageError(
                f"the folder {links[0]!r} within it is a link",
                where=str(path),
                remedy="Put the folder itself there: what it links to could change unseen.",
            )
        files += [Path(folder) / name for name in names if not name.startswith(_HIDDEN)]
    return sorted(file for file in files if file.suffix not in _NEVER_READ)


def read_config(path: Path) -> dict[str, Any]:
    """Reads a model's config.json.

    Raises:
        UsageError: It is none, or of a model whose weights are quantised.
    """
    if gguf_file(path) is not None:
        return {}  # within the file, which transformers reads
    fields = _read_json(path / _CONFIG)
    where = str(path / _CONFIG)
    if fields.get("quantization_config"):
        how = fields["quantization_config"]
        method = how.get("quant_method", "quantised") if isinstance(how, dict) else how
        raise UsageError(
            f"quantization_config says that the weights are quantised ({in_one_line(str(method), 40)})",
            where=where,
            remedy="Gradients of single units are taken of unquantised weights: use the checkpoint that it was "
            "made from. training.precision: bfloat16 halves the memory of one.",
        )
    return fields


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads what a model's files say of their tensors: safetensors in one file or in several, or GGUF.

    Raises:
        UsageError: A file is missing or damaged, or its weights are quantised otherwise than by GGUF.
    """
    if (whole := gguf_file(path)) is not None:
        return _tensors_of_gguf(whole)
    found: dict[str, Tensor] = {}
    for file in _parts(path):
        for name, tensor in _tensors_of(path / file).items():
            _check_kind(name, tensor, path)
            found[name] = tensor
    if not found:
        raise UsageError("there are no weights in it", where=str(path / WEIGHTS))
    return found


def weight_files(path: Path) -> list[str]:
    """Returns the names of the safetensors files of a model, the index of several included.

    Raises:
        UsageError: One that the index names is missing.
    """
    parts = _parts(path)
    return parts if parts == [WEIGHTS] else [INDEX, *parts]


def _parts(path: Path) -> list[str]:
    """Returns the names of the files that hold weights: one, or those that an index names."""
    if (path / WEIGHTS).is_file():
        return [WEIGHTS]
    where, map_ = str(path / INDEX), _read_json(path / INDEX).get("weight_map")
    names = set(map_.values()) if isinstance(map_, dict) and _are_texts(map_.values()) else set()
    if not names:
        raise UsageError(
            "weight_map does not say in which file each weight is",
            where=where,
            remedy="Copy the file again from where the model is from.",
        )
    for name in sorted(names):
        if "\0" in name or Path(name).name != name:
            raise UsageError(f"{in_one_line(name, 80)!r} is no file of this folder", where=where)
    if missing := [name for name in sorted(names) if not _is_file(path / name)]:
        raise UsageError(
            f"{len(missing)} of its {len(names)} files are missing: "
            + ", ".join(in_one_line(name, 80) for name in missing[:5]),
            where=where,
            remedy="Copy the whole folder: each of the files holds a part of the weights.",
        )
    return sorted(names)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _are_texts(values: Any) -> bool:  # noqa: ANN401 - whatever a file holds
    return all(isinstance(value, str) for value in values)


def _tensors_of(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, "pt") as opened:
            return {
                name: Tensor(
                    opened.get_slice(name).get_dtype(),
                    tuple(opened.get_slice(name).get_shape()),
                    file.name,
                )
                for name in opened.keys()  # noqa: SIM118 - it is no mapping
            }
    except (OSError, SafetensorError, ValueError) as error:
        raise unreadable(file, "model", error) from error


def _tensors_of_gguf(file: Path) -> dict[str, Tensor]:
    try:
        from gguf import GGUFReader  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError(
            "a GGUF file is read by the package gguf, which is not installed",
            where=str(file),
            remedy="pip install 'hortus[gguf]'",
        ) from error
    try:
        reader = GGUFReader(file)
        parts = reader.get_field("split.count")
        is_part = parts is not None and int(parts.contents()) > 1
        found = {
            str(one.name): Tensor(one.tensor_type.name, tuple(map(int, one.shape)), file.name)
            for one in reader.tensors
        }
    except Exception as error:  # whatever a damaged file leads to
        raise unreadable(file, "model", error) from error
    if is_part or not found:
        raise UsageError(
            "it is one of several parts of a model" if is_part else "there are no weights in it",
            where=str(file),
            remedy="Put the parts together: llama-gguf-split --merge FIRST_PART WHOLE.gguf",
        )
    return found


def _check_kind(name: str, tensor: Tensor, path: Path) -> None:
    if tensor.dtype not in _FLOATS | _INTEGERS:
        raise UsageError(
            f"the weight {in_one_line(name, 100)!r} is of type {tensor.dtype}, which quantised weights are",
            where=str(path / tensor.file),
            remedy="Use the checkpoint that it was made from, in float32, float16 or bfloat16.",
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_bytes(), object_pairs_hook=distinct_keys)
    except KeyTwiceError as error:
        raise UsageError(
            f"the key {in_one_line(error.args[0], 60)!r} comes twice in an object",
            where=str(path),
            remedy="Keep the one that is meant.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, "model", error) from error
    if not isinstance(fields, dict):
        raise UsageError("it is not a JSON object", where=str(path))
    return fields


def unreadable(path: Path, what: str, error: BaseException) -> UsageError:
    """Returns the explanation of a part of a model that cannot be read."""
    reason = in_one_line(str(error).strip().partition("\n")[0], 200)
    return UsageError(
        f"the {what} cannot be read ({type(error).__name__}{': ' if reason else ''}{reason})",
        where=str(path),
        remedy="Hortus reads models that transformers has the code for, from safetensors or GGUF files.",
    )
