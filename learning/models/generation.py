"""Text that a model writes, token after token: what it writes to a prompt is what it would write to that prompt alone."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
)

from hortus.learning.models.base import Base
from hortus.learning.models.loading import longest_text
from hortus.learning.models.tokens import filler
from hortus.runtime.errors import UsageError

# What a model's own settings say of where a text begins and ends; whatever else they say of sampling is ours to choose.
_FRAME = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")


@dataclass(frozen=True, slots=True)
class Writing:
    """How a text is written.

    Attributes:
        max_new_tokens: It ends after this many, wherever it is.
        temperature: Logits are divided by it before a token is drawn; 0 takes the likeliest token.
        seed: What is drawn follows from it.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what nothing can be written with."""
        if self.max_new_tokens < 1:
            raise UsageError(f"{self.max_new_tokens} is not above 0", where="max_new_tokens")
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(
                f"{self.temperature} is not 0 or above",
                where="temperature",
                remedy="0 takes the likeliest token each time; 1 draws as the model was trained.",
            )


class Writer:
    """Has a model write.

    Args:
        base: The base model, within which the adapter's layers are; it must predict tokens.
        tokenizer: Its own.
    """

    def __init__(self, base: Base, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model: Any = base.module
        self._tokenizer = tokenizer
        self._longest = longest_text(base.backbone)
        self._answers_apart = bool(base.config.is_encoder_decoder)

    def write(self, prompts: Sequence[tuple[int, ...]], how: Writing) -> list[str]:
        """Returns what follows each prompt.

        Prompts share passes, which changes a logit by rounding at most. What is drawn does not depend on the other
        prompts: each is drawn for with the same numbers, as if it were the only one.

        Args:
            prompts: Token ids, at least one in each.
            how: How it is written.

        Raises:
            UsageError: A prompt is longer than what the model reads.
        """
        return self._written(prompts, how, None, None)

    def stream(self, prompt: tuple[int, ...], how: Writing) -> Iterator[str]:
        """Yields what `write` returns piece by piece, as soon as a word is finished.

        When the caller leaves, the model stops after the token that it is at.

        Raises:
            UsageError: The prompt is longer than what the model reads.
        """
        self._room([prompt], how)
        pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        leaves = threading.Event()

        def run() -> None:
            try:
                teller = _Teller(self._tokenizer, pieces.put, apart=self._answers_apart)
                self._written([prompt], how, teller, leaves)
                pieces.put(None)
            except BaseException as error:  # noqa: BLE001 - raised where it is awaited
                pieces.put(error)

        thread = threading.Thread(target=run, name="writing", daemon=True)
        thread.start()
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                if piece:
                    yield piece
        finally:
            leaves.set()
            thread.join()

    def fits(self, prompt: tuple[int, ...], more: int) -> bool:
        """Whether the model reads a prompt and this many more tokens."""
        apart = 0 if self._answers_apart else more
        return self._longest is None or len(prompt) + apart <= self._longest

    def check(self, prompt: tuple[int, ...]) -> None:
        """Raises UsageError where a prompt is longer than what the model reads."""
        self._room([prompt], Writing(1))

    def _room(self, prompts: Sequence[tuple[int, ...]], how: Writing) -> int:
        """Returns how many tokens can follow the prompts."""
        longest = max(map(len, prompts))
        if self._longest is None:
            return how.max_new_tokens
        left = self._longest - (0 if self._answers_apart else longest)
        if longest > self._longest or left < 1:
            raise UsageError(
                f"the prompt is {longest:,} tokens long, and the model reads {self._longest:,}",
                remedy="Shorten it, or leave earlier messages out.",
            )
        return min(how.max_new_tokens, left)

    def _written(
        self,
        prompts: Sequence[tuple[int, ...]],
        how: Writing,
        teller: "_Teller | None",
        leaves: threading.Event | None,
    ) -> list[str]:
        if not prompts:
            return []
        room, width, fill = (
            self._room(prompts, how),
            max(map(len, prompts)),
            filler(self._tokenizer),
        )
        ids = torch.tensor([self._padded(one, width, fill) for one in prompts])
        mask = torch.tensor([self._padded((1,) * len(one), width, 0) for one in prompts])
        device, processors, stops = (
            self._model.device,
            LogitsProcessorList(),
            StoppingCriteriaList(),
        )
        if how.temperature > 0:
            processors.append(_Drawn(how.temperature, how.seed))
        if leaves is not None:
            stops.append(_Left(leaves))
        with self._settings(room, fill), torch.inference_mode():
            found = self._model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                logits_processor=processors,
                stopping_criteria=stops,
                streamer=teller,
            )
        own = found if self._answers_apart else found[:, width:]
        texts: list[str] = self._tokenizer.batch_decode(own, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _padded(self, row: tuple[int, ...], width: int, fill: int) -> list[int]:
        """Pads a decoder's prompt on the left, so that what follows stands beside its end; an encoder's on the right."""
        filled = [fill] * (width - len(row))
        return [*row, *filled] if self._answers_apart else [*filled, *row]

    @contextmanager
    def _settings(self, room: int, fill: int) -> Iterator[None]:
        """Puts our settings where the model's own would fill in whatever is left open."""
        own = self._model.generation_config
        frame = {name: value for name in _FRAME if (value := getattr(own, name, None)) is not None}
        if self._answers_apart and "decoder_start_token_id" not in frame:
            frame["decoder_start_token_id"] = self._model.config.decoder_start_token_id
        self._model.generation_config = GenerationConfig(
            **frame,
            max_new_tokens=room,
            do_sample=False,
            eos_token_id=self._ends(own.eos_token_id) or None,
            pad_token_id=fill,
        )
        self._model.eval()
        try:
            yield
        finally:
            self._model.generation_config = own

    def _ends(self, own: int | list[int] | None) -> list[int]:
        """Returns the tokens that end a text, by the tokenizer or by the model's own settings."""
        known = own if isinstance(own, list) else [own]
        ends = {token for token in (self._tokenizer.eos_token_id, *known) if token is not None}
        return sorted(ends)


class _Drawn(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Makes the likeliest token a drawn one, by Gumbel noise of a generator of its own (Gumbel 1954).

    Every prompt of a pass has the same noise, so that none depends on how many others there are.
    """

    def __init__(self, temperature: float, seed: int) -> None:
        self._temperature = temperature
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - its signature
        """Returns logits of which the greatest is a draw from their softmax, float32 (prompts, vocabulary)."""
        uniform = torch.rand(scores.shape[1], generator=self._generator, dtype=torch.float64)
        noise = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 2**-53)))
        return scores.float() / self._temperature + noise.float().to(scores.device)


class _Left(StoppingCriteria):  # type: ignore[misc]  # transformers has no types
    """Stops when nobody waits for the text any more."""

    def __init__(self, leaves: threading.Event) -> None:
        self._leaves = leaves

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # noqa: ANN401, ARG002 - its signature
        """Returns whether each text ends here, bool (prompts,)."""
        return torch.full((input_ids.shape[0],), self._leaves.is_set(), device=input_ids.device)


class _Teller(TextStreamer):  # type: ignore[misc]  # transformers has no types
    """Tells each piece of a text once no later token can change it; white space at either end is left out."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, tell: Callable[[str], object], *, apart: bool
    ) -> None:
        # An encoder's prompt is not among what its decoder returns, but for the token that starts it, which is special.
        super().__init__(tokenizer, skip_prompt=not apart, skip_special_tokens=True)
        self._tell = tell
        self._begun, self._spaces = False, ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002 - its signature
        """Tells a piece."""
        text = self._spaces + text if self._begun else text.lstrip()
        kept = text.rstrip()
        if kept:
            self._begun, self._spaces = True, text[len(kept) :]
            self._tell(kept)
        elif self._begun:
            self._spaces = text
