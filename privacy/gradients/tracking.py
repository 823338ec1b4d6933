"""Trainable parameters that see every operation they take part in.

While a batch is computed, each trainable parameter of a model is replaced by a tensor that PyTorch
asks before any function is applied to it (`__torch_function__`). Known operations run as they are on
the parameter's value, as if it were frozen, so that autograd computes the gradients of activations
only; the operation's output is tapped, and when the backward pass reaches the tap, what the
parameter's gradient is made of is handed to a recorder, still apart for each record. Everything
else is refused by name. So it does not matter which module holds a parameter, and none is forgotten.

The first dimension of every activation that meets a trainable parameter is the record.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import resolve_name

from hortus.learning.passes import isolation
from hortus.privacy.gradients import rules
from hortus.privacy.gradients.recording import current
from hortus.privacy.gradients.rules import Form, Rule
from hortus.runtime.errors import UsageError


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A trainable parameter."""

    name: str
    parameter: nn.Parameter


class Tracked(torch.Tensor):
    """What a trainable parameter is replaced by; transposed, reshaped, scaled or shifted, it stays one.

    Attributes:
        plain: The value, an ordinary tensor that needs no gradient.
        source: Where the value comes from.
        transposed: Whether it is the parameter's transpose.
        scale: What the parameter was multiplied by.
    """

    plain: torch.Tensor
    source: Source
    transposed: bool
    scale: float

    @classmethod
    def of(
        cls, source: Source, plain: torch.Tensor, *, transposed: bool = False, scale: float = 1.0
    ) -> "Tracked":
        """Tracks a value of a parameter."""
        tracked: Tracked = cls._make_subclass(cls, plain)
        tracked.plain, tracked.source = plain, source
        tracked.transposed, tracked.scale = transposed, scale
        return tracked

    def derived(
        self, plain: torch.Tensor, *, transposed: bool = False, scale: float = 1.0
    ) -> "Tracked":
        """Tracks a value made of this one."""
        return Tracked.of(
            self.source,
            plain,
            transposed=self.transposed ^ transposed,
            scale=self.scale * scale,
        )

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs a known operation.

        Raises:
            UsageError: The operation has no per-unit gradient here.
        """
        with torch._C.DisableTorchFunctionSubclass():  # as PyTorch's documentation does
            if func in _READS:
                return func(*args, **(kwargs or {}))
            operation = _OPERATIONS.get(func)
            result = operation(*args, **(kwargs or {})) if operation else None
        if result is None:
            refused = _find((*args, *(kwargs or {}).values()))
            raise UsageError(
                f"its gradient for one unit is not known, since it is used in {resolve_name(func)}",
                where=refused.source.name,
                remedy="Train parameters of linear, Conv1D, embedding and normalisation layers, "
                "of LoRA and of IA3.",
            )
        return result


@contextmanager
def tracking(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Has the parameters of these names tracked within the block, by whatever thread computes.

    Each pass, backward included, belongs inside a `recording` of its own.

    A parameter that several modules share is replaced in all of them.
    """
    named = dict(model.named_parameters())
    tracked = {
        named[name]: Tracked.of(Source(name, named[name]), named[name].detach()) for name in names
    }
    sites = [
        (module, key, parameter)
        for module in model.modules()
        for key, parameter in module._parameters.items()
        if parameter is not None and parameter in tracked
    ]
    try:
        for module, key, parameter in sites:
            module._parameters[key] = tracked[parameter]  # type: ignore[assignment]
        yield
    finally:
        for module, key, parameter in sites:
            module._parameters[key] = parameter


class _Tap(torch.autograd.Function):
    """The identity, whose backward pass hands the recorder what it saw."""

    @staticmethod
    def forward(
        ctx: Any,
        output: torch.Tensor,
        _anchor: nn.Parameter,  # makes the output need a gradient where the activations do not
        kept: torch.Tensor | None,
        uses: Sequence[tuple[Tracked, Rule]],
    ) -> torch.Tensor:
        ctx.save_for_backward(kept)
        ctx.mark_dirty(output)
        ctx.uses = uses
        ctx.recorder = current()  # a GPU's backward pass has a thread of its own
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        gradient = gradient.contiguous()  # once, here, and not again in the operation's backward
        for tracked, rule in ctx.uses:
            scaled = rules.wide(gradient)
            if tracked.scale != 1:
                scaled = scaled * tracked.scale
            form = Form(tracked.plain.shape, tracked.transposed)
            ctx.recorder.add(tracked.source.name, rule(scaled, kept, form))
        return gradient, None, None, None


def _tap(
    output: torch.Tensor, kept: torch.Tensor | None, *uses: tuple[Tracked, Rule]
) -> torch.Tensor:
    """Taps an operation's output.

    Args:
        output: (records, …).
        kept: What the rules need in addition to the output's gradient.
        uses: The parameters, each with its gradient's rule.
    """
    source = uses[0][0].source
    if output.shape[:1] != (current().units.records,):
        raise UsageError(
            "the first dimension of what the parameter acts on is not the record",
            where=source.name,
            remedy="Gradients of single units need activations that keep records apart: leave the layer out of "
            "adapter.targets.",
        )
    if not torch.is_grad_enabled():  # the first pass of a checkpointed layer
        return output
    tapped: torch.Tensor = _Tap.apply(output, source.parameter, kept, uses)  # type: ignore[no-untyped-call]
    return tapped


def _linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor | None:
    """x·Wᵀ + b with x (records, …, in), W (out, in), b (out)."""
    if isinstance(x, Tracked) or x.dim() < 2:
        return None
    value = weight.plain if isinstance(weight, Tracked) else weight
    output = isolation.linear(x, value, _plain(bias))
    uses: list[tuple[Tracked, Rule]] = []
    if isinstance(weight, Tracked):
        uses.append((weight, rules.matrix))
    if isinstance(bias, Tracked):
        uses.append((bias, rules.added))
    return _tap(output, x if isinstance(weight, Tracked) else None, *uses)


def _matmul(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
    """x·W with x (records, …, in), W (in, out)."""
    if not isinstance(weight, Tracked) or weight.dim() != 2:
        return None
    return _linear(x, weight.derived(weight.plain.T, transposed=True))


def _embedding(
    index: torch.Tensor,
    weight: torch.Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,  # noqa: ARG001 - of max_norm
    scale_grad_by_freq: bool = False,
    sparse: bool = False,  # noqa: ARG001 - how autograd would store the gradient
) -> torch.Tensor | None:
    """Rows of a table, (rows, width), at an index, (records, …) or (1, …) for all records alike."""
    known = isinstance(weight, Tracked) and index.dim() >= 2
    if not known or max_norm is not None or scale_grad_by_freq:
        return None
    assert isinstance(weight, Tracked)  # noqa: S101 - for the type checker
    index = index.expand(
        current().units.records if len(index) == 1 else len(index), *index.shape[1:]
    )
    output = functional.embedding(index, weight.plain)
    return _tap(output, index, (weight, partial(rules.table, padding_idx=padding_idx)))


def _layer_norm(
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor | None:
    """A standardised x times `weight` plus `bias`, both of `normalized_shape`."""
    if isinstance(x, Tracked) or x.dim() <= len(normalized_shape):
        return None
    output = functional.layer_norm(x, normalized_shape, _plain(weight), _plain(bias), eps)
    uses: list[tuple[Tracked, Rule]] = []
    if isinstance(weight, Tracked):
        normalise = partial(functional.layer_norm, normalized_shape=normalized_shape, eps=eps)
        uses.append((weight, partial(rules.normalised, normalise=normalise)))
    if isinstance(bias, Tracked):
        uses.append((bias, rules.added))
    return _tap(output, x if isinstance(weight, Tracked) else None, *uses)


def _rms_norm(
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor | None:
    """An x over its root mean square, times `weight` of `normalized_shape`."""
    if not isinstance(weight, Tracked) or x.dim() <= len(normalized_shape):
        return None
    output = functional.rms_norm(x, normalized_shape, weight.plain, eps)
    normalise = partial(functional.rms_norm, normalized_shape=normalized_shape, eps=eps)
    return _tap(output, x, (weight, partial(rules.normalised, normalise=normalise)))


def _mul(first: torch.Tensor | float, second: torch.Tensor | float) -> torch.Tensor | None:
    """A vector times an activation, or a number times a parameter."""
    tracked, other = (first, second) if isinstance(first, Tracked) else (second, first)
    if not isinstance(tracked, Tracked) or isinstance(other, Tracked):
        return None
    if isinstance(other, int | float):
        return tracked.derived(tracked.plain * other, scale=other)
    output = tracked.plain * other
    if not _is_shared(tracked, output):
        return None
    return _tap(output, other, (tracked, rules.multiplied))


def _divide(tracked: torch.Tensor | float, other: torch.Tensor | float) -> torch.Tensor | None:
    """A parameter over a number."""
    if not isinstance(tracked, Tracked) or not isinstance(other, int | float):
        return None
    return tracked.derived(tracked.plain / other, scale=1 / other)


def _add(
    first: torch.Tensor | float, second: torch.Tensor | float, *, alpha: float = 1
) -> torch.Tensor | None:
    """A vector added to an activation, or a number added to a parameter."""
    tracked, other = (first, second) if isinstance(first, Tracked) else (second, first)
    if not isinstance(tracked, Tracked) or isinstance(other, Tracked) or alpha != 1:
        return None
    output = tracked.plain + other
    if isinstance(other, int | float):
        return tracked.derived(output)
    if not _is_shared(tracked, output):
        return None
    return _tap(output, None, (tracked, rules.added))


def _is_shared(tracked: Tracked, output: torch.Tensor) -> bool:
    """Whether all records of an output, (records, …), meet the same value."""
    free = output.dim() - tracked.dim()
    return free > 0 or (free == 0 and tracked.dim() > 0 and len(tracked) == 1)


def _transpose(tracked: Tracked) -> torch.Tensor | None:
    """The transpose of a matrix; anything else is its own."""
    if tracked.dim() > 2:
        return None
    return tracked.derived(tracked.plain.T, transposed=tracked.dim() == 2)


def _constant(tracked: Tracked) -> torch.Tensor:
    """The value alone: what is made of it has no gradient, in autograd neither."""
    return tracked.plain


def _reshape(
    method: Callable[..., torch.Tensor], tracked: Tracked, *args: Any, **kwargs: Any
) -> torch.Tensor | None:
    """The same numbers in the same order."""
    if tracked.transposed:
        return None
    return tracked.derived(method(tracked.plain, *args, **kwargs))


def _convert(
    method: Callable[..., torch.Tensor], tracked: Tracked, *args: Any, **kwargs: Any
) -> torch.Tensor | None:
    """The same numbers in another precision or on another device."""
    if not isinstance(tracked, Tracked):
        return None
    return tracked.derived(method(tracked.plain, *args, **kwargs))


def _plain(value: torch.Tensor | None) -> torch.Tensor | None:
    return value.plain if isinstance(value, Tracked) else value


def _find(arguments: Iterable[Any]) -> Tracked:
    """Returns the first tracked parameter among arguments, some of them lists."""
    for argument in arguments:
        if isinstance(argument, Tracked):
            return argument
        if isinstance(argument, list | tuple) and any(isinstance(a, Tracked) for a in argument):
            return _find(argument)
    raise AssertionError("PyTorch asks about tracked arguments only")


def _getter(attribute: str) -> Callable[..., Any]:
    """Returns what PyTorch calls reading an attribute of a tensor."""
    getter: Callable[..., Any] = getattr(torch.Tensor, attribute).__get__
    return getter


_READS = {
    *map(_getter, ("device", "dtype", "is_cuda", "is_meta", "layout", "ndim", "requires_grad")),
    _getter("shape"),
    torch.Tensor.dim,
    torch.Tensor.is_complex,
    torch.Tensor.is_floating_point,
    torch.Tensor.numel,
    torch.Tensor.size,
    torch.Tensor.__len__,
    torch.Tensor.__repr__,
}

_OPERATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.linear: _linear,
    functional.embedding: _embedding,
    functional.layer_norm: _layer_norm,
    functional.rms_norm: _rms_norm,
    torch.matmul: _matmul,
    torch.Tensor.matmul: _matmul,
    torch.mul: _mul,
    torch.Tensor.mul: _mul,
    torch.div: _divide,
    torch.Tensor.div: _divide,
    torch.add: _add,
    torch.Tensor.add: _add,
    torch.detach: _constant,
    torch.Tensor.detach: _constant,
    torch.t: _transpose,
    torch.Tensor.t: _transpose,
    _getter("T"): _transpose,
    _getter("mT"): _transpose,
    **{
        method: partial(_reshape, method)
        for method in (
            torch.Tensor.flatten,
            torch.Tensor.reshape,
            torch.Tensor.unsqueeze,
            torch.Tensor.view,
        )
    },
    **{method: partial(_convert, method) for method in (torch.Tensor.to, torch.Tensor.float)},
}
