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
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import resolve_name

from hortus.learning.passes import isolation
from hortus.runtime.errors import UsageError


@dataclass(slots=True)
class Recorder:
    """Collects the gradients of one pass.

    Attributes:
        unit: int64 (records,), each record's unit.
        units: Number of units.
        gradients: By the parameter's name, (units, size).
    """

    unit: torch.Tensor
    units: int
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """Records in the pass."""
        return len(self.unit)

    def add(self, name: str, gradients: torch.Tensor) -> None:
        """Takes what one use of a parameter contributes, (records, size)."""
        if self.units == self.records:
            summed = gradients[torch.argsort(self.unit)]
        else:
            summed = gradients.new_zeros(self.units, gradients.shape[1])
            summed.index_add_(0, self.unit, gradients)
        before = self.gradients.get(name)
        self.gradients[name] = summed if before is None else before + summed


# Of the pass that this thread is computing.
_recorder: ContextVar[Recorder] = ContextVar("recorder")


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Has the passes that this thread computes within the block recorded."""
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)


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


Rule = Callable[[torch.Tensor, Any], torch.Tensor]


class _Tap(torch.autograd.Function):
    """The identity, whose backward pass tells the recorder what it saw."""

    @staticmethod
    def forward(
        ctx: Any,
        output: torch.Tensor,
        _anchor: nn.Parameter,  # makes the output need a gradient where the activations do not
        kept: torch.Tensor | None,
        rules: Sequence[tuple[Tracked, Rule]],
    ) -> torch.Tensor:
        ctx.save_for_backward(kept)
        ctx.mark_dirty(output)
        ctx.rules = rules
        ctx.recorder = _recorder.get()  # a GPU's backward pass has a thread of its own
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        gradient = gradient.contiguous()  # once, here, and not again in the operation's backward
        for tracked, rule in ctx.rules:
            scaled = _wide(gradient) if tracked.scale == 1 else _wide(gradient) * tracked.scale
            ctx.recorder.add(tracked.source.name, rule(scaled, kept))
        return gradient, None, None, None


def _tap(
    output: torch.Tensor, kept: torch.Tensor | None, *rules: tuple[Tracked, Rule]
) -> torch.Tensor:
    """Taps an operation's output.

    Args:
        output: (records, …).
        kept: What the rules need besides the output's gradient.
        rules: For each parameter, what the output's gradient and `kept` make of it.
    """
    source = rules[0][0].source
    if output.shape[:1] != (_recorder.get().records,):
        raise UsageError(
            "the first dimension of what the parameter acts on is not the record",
            where=source.name,
            remedy="Gradients of single units need activations that keep records apart.",
        )
    if not torch.is_grad_enabled():  # the first pass of a checkpointed layer
        return output
    tapped: torch.Tensor = _Tap.apply(output, source.parameter, kept, rules)  # type: ignore[no-untyped-call]
    return tapped


def _linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor | None:
    """x·Wᵀ + b with x (records, …, in), W (out, in), b (out)."""
    if isinstance(x, Tracked) or x.dim() < 2:
        return None
    value = weight.plain if isinstance(weight, Tracked) else weight
    output = isolation.linear(x, value, _plain(bias))
    rules: list[tuple[Tracked, Rule]] = []
    if isinstance(weight, Tracked):
        rules.append((weight, partial(_matrix, weight)))
    if isinstance(bias, Tracked):
        rules.append((bias, partial(_added, bias)))
    return _tap(output, x if isinstance(weight, Tracked) else None, *rules)


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
        _recorder.get().records if len(index) == 1 else len(index), *index.shape[1:]
    )
    output = functional.embedding(index, weight.plain)
    return _tap(output, index, (weight, partial(_table, weight, padding_idx)))


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
    rules: list[tuple[Tracked, Rule]] = []
    if isinstance(weight, Tracked):
        normalise = partial(functional.layer_norm, normalized_shape=normalized_shape, eps=eps)
        rules.append((weight, partial(_normalised, weight, normalise)))
    if isinstance(bias, Tracked):
        rules.append((bias, partial(_added, bias)))
    return _tap(output, x if isinstance(weight, Tracked) else None, *rules)


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
    return _tap(output, x, (weight, partial(_normalised, weight, normalise)))


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
    return _tap(output, other, (tracked, partial(_multiplied, tracked)))


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
    return _tap(output, None, (tracked, partial(_added, tracked)))


def _is_shared(tracked: Tracked, output: torch.Tensor) -> bool:
    """Whether all records of an output, (records, …), meet the same value."""
    free = output.dim() - tracked.dim()
    return free > 0 or (free == 0 and tracked.dim() > 0 and len(tracked) == 1)


def _transpose(tracked: Tracked) -> torch.Tensor | None:
    """The transpose of a matrix; anything else is its own."""
    if tracked.dim() > 2:
        return None
    return tracked.derived(tracked.plain.T, transposed=tracked.dim() == 2)


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


def _matrix(weight: Tracked, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Σₜ gradientₜ ⊗ xₜ."""
    records, (rows, columns) = len(gradient), weight.plain.shape
    left = gradient.reshape(records, -1, rows)
    right = _wide(x).reshape(records, -1, columns)
    if weight.transposed:
        left, right = right, left
    # Few rows times many columns is several times faster than the other way round.
    wide = left.shape[2] <= right.shape[2]
    formed = torch.bmm(left.mT, right) if wide else torch.bmm(right.mT, left).mT
    return formed.flatten(1)


def _table(
    weight: Tracked, padding_idx: int | None, gradient: torch.Tensor, index: torch.Tensor
) -> torch.Tensor:
    """The gradients of each row that a record looks up, summed; the padding row has none."""
    records, (height, width) = len(index), weight.plain.shape
    rows, gradients = index.reshape(records, -1), gradient.reshape(records, -1, width)
    if padding_idx is not None:
        gradients = torch.where((rows != padding_idx % height).unsqueeze(2), gradients, 0)
    places = rows + height * torch.arange(records, device=rows.device).unsqueeze(1)
    tables = gradients.new_zeros(records * height, width)
    tables.index_add_(0, places.flatten(), gradients.flatten(0, 1))
    tables = tables.view(records, height, width)
    return (tables.mT if weight.transposed else tables).reshape(records, -1)


def _multiplied(tracked: Tracked, gradient: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return _added(tracked, gradient * _wide(other))


def _normalised(
    tracked: Tracked,
    normalise: Callable[[torch.Tensor], torch.Tensor],
    gradient: torch.Tensor,
    x: torch.Tensor,
) -> torch.Tensor:
    return _added(tracked, gradient * normalise(_wide(x)))


def _added(
    tracked: Tracked, gradient: torch.Tensor, _kept: torch.Tensor | None = None
) -> torch.Tensor:
    """The gradient, (records, …), summed over what the value was broadcast along but the records."""
    shape = (*[1] * (gradient.dim() - tracked.plain.dim()), *tracked.plain.shape)
    shared = [d for d, size in enumerate(shape) if d > 0 and size == 1]
    reduced = (gradient.sum(shared) if shared else gradient).view(-1, *tracked.plain.shape)
    return (reduced.mT if tracked.transposed else reduced).flatten(1)


def _plain(value: torch.Tensor | None) -> torch.Tensor | None:
    return value.plain if isinstance(value, Tracked) else value


def _wide(values: torch.Tensor) -> torch.Tensor:
    """Returns values, without their graph, in at least float32: exactly, from whatever is narrower."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))


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
    torch.add: _add,
    torch.Tensor.add: _add,
    torch.t: _transpose,
    torch.Tensor.t: _transpose,
    _getter("T"): _transpose,
    _getter("mT"): _transpose,
    **{
        method: partial(_reshape, method)
        for method in (torch.Tensor.flatten, torch.Tensor.reshape, torch.Tensor.view)
    },
    **{method: partial(_convert, method) for method in (torch.Tensor.to, torch.Tensor.float)},
}
