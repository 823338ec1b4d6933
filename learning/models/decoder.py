"""Decoders from a layer on: what frozen layers make of a record is kept, and no logits are made of a prompt.

A decoder's own code runs, with the masks and positions that it makes itself: of its layers, those that are
frozen are passed over, and the first one after them is given what was kept. So nothing here knows an
architecture; whether its layers are functions of the states that the layer before returned, a trial says.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel

_TRIED_TOKENS = 8
_ROWS = 256  # tokens whose logits are in memory at once
_IGNORED = -100  # PyTorch's own `ignore_index`, and so the tasks'
_FUSES = "hortus_takes_targets"


class TokenLosses(NamedTuple):
    """How each token but the first was predicted.

    Attributes:
        losses: Cross-entropy in nats, float32 (records, tokens - 1), 0 where the target is IGNORED.
        hits: Whether the target was the likeliest token, bool (records, tokens - 1); all False where gradients are
            recorded, since finding the likeliest takes as long as making the logits.
    """

    losses: torch.Tensor
    hits: torch.Tensor


def token_losses(model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor) -> TokenLosses:
    """Returns how well each token of the targets is predicted from those before it.

    What is returned of a record has the same bits whoever else is in the pass, as far as its states have.

    Args:
        model: A decoder with its output layer, adapted or not.
        inputs: Its arguments.
        targets: int64 (records, tokens), IGNORED where nothing is learnt.
    """
    if getattr(model, _FUSES, False):
        found: TokenLosses = model(**inputs, targets=targets, use_cache=False)
        return found
    return _of_logits(model(**inputs, use_cache=False).logits, targets)


class Decoder:
    """A decoder of transformers, which from now on takes `states` and `targets` too.

    Args:
        model: Changed in place: its `forward`, and those of its layers.
    """

    pools = False

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        found = _layers_of(model)
        self.layers = 0 if found is None else len(found)
        for index, layer in enumerate(found or ()):
            layer.forward = wraps(layer.forward)(partial(_through, index, layer.forward))
        self._plain = model.forward
        model.forward = wraps(self._plain)(partial(self._forward))
        self._fuses = self._head_makes_logits()
        setattr(model, _FUSES, True)

    def reaches(self, depth: int) -> bool:
        """Whether a made-up text has the same logits where so many layers were run ahead, to the last bit."""
        tokens, mask = self._tried()
        try:
            with torch.no_grad():
                expected = self._model(
                    input_ids=tokens, attention_mask=mask, use_cache=False
                ).logits
                states = self.enter(tokens, mask, depth)
                kept = {"states": states, "depth": depth, "use_cache": False}
                found = self._model(input_ids=tokens, attention_mask=mask, **kept).logits
        except Exception:  # noqa: BLE001 - whatever an architecture says that is not made for it
            return False
        real = mask.bool()
        return bool(torch.equal(found[real], expected[real]))

    def enter(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        depth: int,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the hidden states that enter layer `depth`, (records, tokens, hidden), 0 where padded.

        Args:
            input_ids: int64 (records, tokens).
            attention_mask: int64 (records, tokens), 0 where padded.
            depth: Layers to go through, fewer than there are.
            token_type_ids: int64 (records, tokens), for the few models that take it.
        """
        course, more = _Until(depth), {}
        if token_type_ids is not None:
            more["token_type_ids"] = token_type_ids
        with _on(course):
            self._model.base_model(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **more
            )
        assert course.found is not None  # noqa: S101 - a trial has shown that it goes through
        return torch.where(attention_mask.unsqueeze(-1).bool(), course.found, 0)

    def embed(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Refuses: no head is trained alone on a decoder that predicts tokens."""
        raise NotImplementedError

    def _forward(
        self,
        *args: Any,  # noqa: ANN401 - transformers has no types
        states: torch.Tensor | None = None,
        depth: int = 0,
        targets: torch.Tensor | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401 - transformers' outputs, or ours
        """Returns what the model returns, or with `targets` the losses of its tokens.

        Args:
            args: The model's own.
            states: What `enter` returned for `depth`; None: nothing was run ahead.
            depth: Layers that `states` has gone through.
            targets: int64 (records, tokens), IGNORED where nothing is learnt.
            kwargs: The model's own.
        """
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        with _on(None if states is None else _From(depth, states)):
            if targets is None:
                return self._plain(*args, **kwargs)
            head = self._frozen_head()
            if head is None:
                return _of_logits(self._plain(*args, **kwargs).logits, targets)
            kwargs.pop("return_dict", None)  # PEFT's
            hidden = self._model.base_model(*args, **kwargs).last_hidden_state
        return _of_hidden(hidden, head, targets)

    def _frozen_head(self) -> nn.Linear | None:
        """Returns the layer that makes the logits, if it alone does, and is not trained."""
        head = self._model.get_output_embeddings()
        # A parameter that is being tracked is no plain one.
        if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter:
            return None
        if head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad):
            return None
        return head if self._fuses else None

    def _head_makes_logits(self) -> bool:
        """Whether nothing is done to the head's outputs: some models scale them, or cap them."""
        tokens, mask = self._tried()
        inputs = {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
        try:
            with torch.no_grad():
                made = self._model.get_output_embeddings()(
                    self._model.base_model(**inputs).last_hidden_state
                )
                return bool(torch.equal(self._plain(**inputs).logits, made))
        except Exception:  # noqa: BLE001 - whatever an architecture says that is not made for it
            return False

    def _tried(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns made-up tokens of two texts, the second one shorter, and their mask, int64 (2, tokens)."""
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        tokens = (torch.arange(2 * _TRIED_TOKENS) % vocabulary).view(2, _TRIED_TOKENS)
        mask = torch.ones_like(tokens)
        mask[1, _TRIED_TOKENS // 2 :] = 0
        return tokens.to(self._model.device), mask.to(self._model.device)


@dataclass(slots=True)
class _Until:
    """Goes through the first layers, and keeps what they return."""

    depth: int
    found: torch.Tensor | None = None

    def at(self, index: int, states: torch.Tensor, layer: Callable[[], Any]) -> Any:  # noqa: ANN401
        if index == self.depth:
            self.found = states
        return layer() if index < self.depth else states


@dataclass(frozen=True, slots=True)
class _From:
    """Passes over the first layers, for what they returned once."""

    depth: int
    kept: torch.Tensor

    def at(self, index: int, _: torch.Tensor, layer: Callable[[], Any]) -> Any:  # noqa: ANN401
        return layer() if index >= self.depth else self.kept


# Of a thread: passes run side by side.
_course: ContextVar[_Until | _From | None] = ContextVar("_course", default=None)


@contextmanager
def _on(course: _Until | _From | None) -> Iterator[None]:
    token = _course.set(course)
    try:
        yield
    finally:
        _course.reset(token)


def _through(
    index: int,
    forward: Callable[..., Any],
    states: torch.Tensor,
    *args: Any,  # noqa: ANN401 - transformers has no types
    **kwargs: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    course = _course.get()
    if course is None:
        return forward(states, *args, **kwargs)
    return course.at(index, states, partial(forward, states, *args, **kwargs))


def _layers_of(model: PreTrainedModel) -> nn.ModuleList | None:
    """Returns a decoder's list of layers; None where it has none, or several."""
    count = getattr(model.config, "num_hidden_layers", None)
    lists = [one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) == count]
    outer = [
        one
        for one in lists
        if not any(one in other.modules() for other in lists if other is not one)
    ]
    return outer[0] if len(outer) == 1 else None


def _of_logits(logits: torch.Tensor, targets: torch.Tensor) -> TokenLosses:
    wanted = targets[:, 1:]
    logits = logits[:, :-1].float()
    each = functional.cross_entropy(logits.mT, wanted, reduction="none", ignore_index=_IGNORED)
    learns = torch.is_grad_enabled() and logits.requires_grad
    hits = torch.zeros_like(wanted, dtype=torch.bool) if learns else logits.argmax(2) == wanted
    return TokenLosses(each, hits)


def _of_hidden(hidden: torch.Tensor, head: nn.Linear, targets: torch.Tensor) -> TokenLosses:
    """Returns the losses of the targets' tokens, a product for some tokens of one record at a time."""
    wanted = targets[:, 1:]
    learnt = wanted != _IGNORED
    states, answers = hidden[:, :-1][learnt], wanted[learnt]
    losses, hits, start = [], [], 0
    for count in learnt.sum(1).tolist():
        for begin in range(start, start + count, _ROWS):
            rows = slice(begin, min(begin + _ROWS, start + count))
            loss, hit = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
                states[rows], head.weight, head.bias, answers[rows]
            )
            losses.append(loss)
            hits.append(hit)
        start += count
    each = hidden.new_zeros(wanted.shape, dtype=torch.float32)
    right = torch.zeros_like(learnt)
    if not losses:
        return TokenLosses(each + hidden[:, :0].float().sum(), right)
    right[learnt] = torch.cat(hits)
    return TokenLosses(each.masked_scatter(learnt, torch.cat(losses)), right)


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy of tokens under a frozen output layer; of their logits, nothing is kept."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - PyTorch's
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        tokens: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns losses, float32 (tokens,), and hits, bool (tokens,).

        Args:
            ctx: Keeps the gradient of each token's loss, float32 (tokens, hidden).
            states: (tokens, hidden).
            weight: (vocabulary, hidden).
            bias: (vocabulary,).
            tokens: int64 (tokens,).
        """
        # A copy of its own begins where memory begins, whatever was before it.
        logits = functional.linear(states.clone(), weight, bias).float()
        learns = ctx.needs_input_grad[0]
        hits = torch.zeros_like(tokens, dtype=torch.bool) if learns else logits.argmax(1) == tokens
        largest = logits.amax(1, keepdim=True)
        chosen = logits.gather(1, tokens.unsqueeze(1))
        shares = logits.sub_(
            largest
        ).exp_()  # in place: of the vocabulary's width, there is one array
        total = shares.sum(1, keepdim=True)
        losses = (largest + total.log() - chosen).squeeze(1)
        if learns:
            # d loss / d logits is what the model gives each token, less 1 for the right one.
            mean = (shares.to(weight.dtype) @ weight).float() / total
            ctx.save_for_backward(mean - weight[tokens].float())
        ctx.dtype = states.dtype
        ctx.mark_non_differentiable(hits)
        return losses, hits

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401 - PyTorch's
        gradient: torch.Tensor,
        _: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        """Returns the gradient of the states."""
        (slopes,) = ctx.saved_tensors
        return (slopes * gradient.unsqueeze(1)).to(ctx.dtype), None, None, None
