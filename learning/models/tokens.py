"""Tokenizers: whatever a record holds, it becomes tokens that the model knows."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hortus.learning.models.folder import transformers_source, unreadable
from hortus.runtime.errors import UsageError

# Characters that few vocabularies have: what is unknown must be readable too.
_ODD_TEXTS = (
    "a",
    "0",
    ".",
    "Ä ß",
    "ж",
    "木",
    "\u200b",
    "\U0001f331",
    "\ue000",
    "a\nb\tc",
    "zq" * 300,
)
_FEWEST_WORDS = 2


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Reads a model's own tokenizer.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return AutoTokenizer.from_pretrained(
            **transformers_source(path), local_files_only=True, trust_remote_code=False
        )
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library's Rust code is no Exception
        raise unreadable(path, "tokenizer", error) from error


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], longest: int
) -> list[tuple[int, ...]]:
    """Returns the token ids of texts, from 1 to `longest` for each.

    A text of which a tokenizer leaves nothing, such as one of invisible characters, is one token of padding.
    """
    found = tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
    return [tuple(ids) or (filler(tokenizer),) for ids in found]


def pair_ids(
    tokenizer: PreTrainedTokenizerBase, firsts: list[str], seconds: list[str], longest: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Returns the token ids of pairs of texts, and for each token which of the two it is of, 0 or 1.

    Of each pair the longer text is cut first. Tokenizers of models that do not tell texts apart say 0 of all.
    """
    found = tokenizer(firsts, seconds, truncation="longest_first", max_length=longest)
    kinds = found.get("token_type_ids") or [[0] * len(ids) for ids in found["input_ids"]]
    pairs = zip(found["input_ids"], kinds, strict=True)
    return [(tuple(ids), tuple(of)) if ids else ((filler(tokenizer),), (0,)) for ids, of in pairs]


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Returns the token ids of a text or of a part of one, however many, and nothing around them."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def frame(
    tokenizer: PreTrainedTokenizerBase, *, of_target: bool = False
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the special tokens that a tokenizer puts before and after a text.

    Args:
        tokenizer: The tokenizer.
        of_target: Whether the text is what a decoder should write: some put others around it.
    """
    whole = tuple((tokenizer(text_target="a") if of_target else tokenizer("a"))["input_ids"])
    inner = ids_of(tokenizer, "a")
    start = next(n for n in range(len(whole)) if whole[n : n + len(inner)] == inner)
    return whole[:start], whole[start + len(inner) :]


def filler(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the token that fills passes up; it is masked, so any will do where there is none for it."""
    known = tokenizer.pad_token_id
    return known if isinstance(known, int) and known >= 0 else 0


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, rows: int, longest: int) -> None:
    """Refuses a tokenizer that would fail on some texts, and so at some sites.

    Args:
        tokenizer: The tokenizer.
        rows: Of the model's embedding: token ids must be below.
        longest: Tokens that a text is cut to.

    Raises:
        UsageError: It makes tokens that the model does not know, or more than `longest`; it knows no words, or
            fails on those it does not know.
    """
    where = str(tokenizer.name_or_path)
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens)
    if len(vocabulary.keys() - special) < _FEWEST_WORDS:
        raise UsageError(
            "the vocabulary of its tokenizer holds special tokens only: all texts would be the same",
            where=where,
            remedy="Copy the tokenizer's files too (tokenizer.json, or vocab.txt, or the like).",
        )
    highest = max(vocabulary.values())
    if highest >= rows:
        unknown = [token for token, number in vocabulary.items() if number >= rows]
        shown = ", ".join(map(repr, sorted(unknown)[:3]))
        raise UsageError(
            f"the tokenizer knows {highest + 1} tokens, and the model's embedding has {rows} rows: "
            f"{shown}{', …' if len(unknown) > 3 else ''} would fail wherever a record holds one",
            where=where,
            remedy="Tokens were added to the tokenizer alone: take its files from before, or make the embedding "
            f"as large and save both (model.resize_token_embeddings({highest + 1})).",
        )
    try:
        found = token_ids(tokenizer, [*_ODD_TEXTS, "a " * (longest + 8)], longest)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # as above
        raise UsageError(
            f"the tokenizer fails on texts with unknown words or characters ({type(error).__name__})",
            where=where,
            remedy="It lacks a token for what is unknown: take the model's own tokenizer, or set unk_token.",
        ) from error
    if any(not 0 <= number < rows for ids in found for number in ids):
        raise UsageError(
            f"the tokenizer makes tokens that are none of the {rows} rows of the model's embedding",
            where=where,
            remedy="It belongs to another model: copy weights and tokenizer from one.",
        )
    if (most := max(map(len, found))) > longest:
        raise UsageError(
            f"the tokenizer makes {most} tokens of a text that is to be cut to {longest}",
            where=where,
            remedy="It adds more special tokens than that: raise task.max_length.",
        )
