"""Line plots: in a page's own colours, light, dark and on paper, or as a file of their own."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path

import matplotlib as mpl
from cycler import cycler
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullFormatter

from hortus.pages.templates import templates
from hortus.runtime.errors import UsageError
from hortus.runtime.files import write_atomic
from hortus.runtime.moments import moment

# The colours of curves on white paper. In a page they become its own, which the style sheet has for
# light and dark; and each curve has a dash of its own beside its colour.
_INK = "#010203"
_CURVES = ("#1f7a4d", "#b4552d", "#3d63b8", "#8b4a9c", "#7d6608", "#16767a")
_VARIABLES = {_INK: "currentColor"} | {
    colour: f"var(--curve-{number})" for number, colour in enumerate(_CURVES, start=1)
}
_DASHES: tuple[tuple[float, tuple[float, ...]] | str, ...] = (
    *("solid", (0, (6.0, 2.0)), (0, (2.0, 1.5))),
    *((0, (8.0, 2.0, 2.0, 2.0)), (0, (4.0, 1.0)), (0, (1.0, 1.0))),
)
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.prop_cycle": cycler(color=_CURVES) + cycler(linestyle=_DASHES),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
    ),
}
# In inches, for a text of 9 points.
_BROAD, _NARROW = (4.6, 2.8), (3.1, 2.4)
# More points than these run into one another.
_MARKED_POINTS = 40
# Between the y axis and the first point, as a share of the width.
_MARGIN = 0.025
_DAY_SECONDS = 86_400.0
# The least that an axis of times spans.
_LEAST_SECONDS = 60.0
# What an `id` is in matplotlib's SVG, and what refers to one.
_SVG_NAME = re.compile(r'(?<= id=")|(?<=href="#)|(?<=url\(#)')
_SVG_STYLE_SHEET = re.compile(r"<style[^>]*>.*?</style>", re.DOTALL)
_SVG_STYLE = re.compile(r'(?<= )style="([^"]*)"')

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """Some curves.

    Attributes:
        name: Distinguishes its SVG identifiers from those of other plots on the page.
        quantity: What is on the y axis.
        curves: Values over x, by label.
        levels: Horizontal lines, by label.
        steps: Lines that change between one x and the next, by label.
        remark: Shown in the plot if it has no curve.
        over: What is on the x axis.
        logarithmic: Smallest value shown of both axes, which are then logarithmic; None: linear.
        last: Where a linear x axis ends; None for the last value.
        is_dated: Whether x is a time, in seconds since the epoch; a value then lasts until the next.
    """

    name: str
    quantity: str
    curves: Mapping[str, Points]
    levels: Mapping[str, float] = field(default_factory=dict)
    remark: str = "There is nothing to show."
    over: str = "round"
    logarithmic: float | None = None
    last: int | None = None
    steps: Mapping[str, Points] = field(default_factory=dict)
    is_dated: bool = False


def svg(plot: Plot) -> Markup:
    """Returns the plot as SVG elements in the page's colours: a broad one, and one for a telephone.

    The style sheet shows one of them. They have no style attributes, which a strict content policy would
    drop.
    """
    broad, narrow = _element(plot, plot.name, _BROAD), _element(plot, f"{plot.name}-n", _NARROW)
    return broad.replace("<svg ", Markup('<svg class="broad" '), 1) + narrow.replace(
        "<svg ", Markup('<svg class="narrow" '), 1
    )


def _element(plot: Plot, name: str, size: tuple[float, float]) -> Markup:
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        _figure(plot, size).savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    element = buffer.getvalue()
    element = _SVG_STYLE_SHEET.sub("", element[element.index("<svg") :])
    element = _SVG_STYLE.sub(_as_attributes, element)
    for colour, variable in _VARIABLES.items():
        element = element.replace(colour, variable)
    return Markup(_SVG_NAME.sub(f"{name}-", element))  # noqa: S704 - matplotlib escapes labels


def describe(plot: Plot) -> str:
    """Describes the plot in words, for readers who cannot see it."""
    parts = [
        f"{label}: {points[0][1]:.4g} {_at(plot, points[0][0])}, "
        f"{points[-1][1]:.4g} {_at(plot, points[-1][0])}"
        for label, points in plot.curves.items()
        if points
    ] or [plot.remark.removesuffix(".")]
    parts += [f"dashed line, {label}: {value:.4g}" for label, value in plot.levels.items()]
    parts += [
        f"dashed line, {label}: " + ", then ".join(_changes(points))
        for label, points in plot.steps.items()
    ]
    return f"Plot of {plot.quantity}, by {plot.over}. {'; '.join(parts)}."


def write_plot(plot: Plot, path: Path, title: str) -> None:
    """Writes the plot to a file whose name ends in .svg, .png or .html.

    Raises:
        UsageError: The name ends in something else.
        HortusError: The file cannot be written.
    """
    if path.suffix == ".html":
        page = templates().get_template("plot.html")
        write_atomic(path, page.render(title=title, words=describe(plot), plot=svg(plot)).encode())
    elif path.suffix in {".svg", ".png"}:
        buffer = io.BytesIO()
        with mpl.rc_context(_STYLE | {"svg.hashsalt": plot.name}):
            _figure(plot).savefig(buffer, format=path.suffix[1:], dpi=160)
        write_atomic(path, buffer.getvalue())
    else:
        raise UsageError(
            f"a plot cannot be written as {path.suffix or 'a file without an ending'!r}",
            where=str(path),
            remedy="Name a file that ends in .svg, .png or .html.",
        )


def together(names: Sequence[str]) -> str:
    """Returns one label for things that share a curve, which would hide all but one."""
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]} and {len(names) - 1} more"


def _figure(plot: Plot, size: tuple[float, float] = _BROAD) -> Figure:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    _draw_curves(axes, plot)
    if not any(plot.curves.values()):
        axes.text(0.5, 0.5, plot.remark, ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
    elif plot.logarithmic is not None:
        _scale_shares(axes, plot.logarithmic)
    else:
        _scale(axes, plot)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(fontsize="small")
    return figure


def _scale(axes: Axes, plot: Plot) -> None:
    """Gives linear axes: rounds or times over x, and a y axis with 0 and all that is shown between two ticks."""
    ends = [x for points in plot.curves.values() for x, _ in points]
    if plot.is_dated:
        _scale_times(axes, min(ends), max(ends))
    else:
        first, last = min(ends), max(*ends, plot.last or 0.0, 2.0)
        _limit(axes, first, last)
        axes.set_xticks(round_ticks(math.ceil(first), math.floor(last)))
    values = [y for points in plot.curves.values() for _, y in points if math.isfinite(y)]
    limits = [value for points in plot.steps.values() for _, value in points]
    shown = [*values, *plot.levels.values(), *limits, 0.0]
    lowest, highest = min(shown), max(shown)
    highest = highest if highest > lowest else 1.0
    ticks = MaxNLocator(nbins=5).tick_values(lowest, highest)
    above = next((tick for tick in ticks if tick >= highest), highest)
    below = next((tick for tick in reversed(ticks) if tick <= lowest), lowest)
    axes.set_yticks([tick for tick in ticks if below <= tick <= above])
    axes.set_ylim(below, above)


def _scale_times(axes: Axes, first: float, last: float) -> None:
    """Gives an x axis of times, in UTC and in English like the rest of a page."""
    last = max(last, first + _LEAST_SECONDS)
    _limit(axes, first / _DAY_SECONDS, last / _DAY_SECONDS)
    locator = AutoDateLocator(tz=UTC, minticks=2, maxticks=5)
    formatter = ConciseDateFormatter(locator, tz=UTC)
    formatter.offset_formats = ["", "%Y", "%b %Y", "%d %b %Y", "%d %b %Y", "%d %b %Y, %H:%M"]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(formatter)


def _limit(axes: Axes, first: float, last: float) -> None:
    """Leaves room between the y axis and the first point."""
    margin = _MARGIN * (last - first)
    axes.set_xlim(first - margin, last + margin)


def _scale_shares(axes: Axes, smallest: float) -> None:
    """Gives logarithmic axes of shares, with ticks in per cent."""
    axes.set(xscale="log", yscale="log", xlim=(smallest, 1), ylim=(smallest, 1))
    ticks = [10.0**power for power in range(math.ceil(math.log10(smallest)), 1)]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FixedFormatter([f"{100 * tick:g} %" for tick in ticks]))
        axis.set_minor_formatter(NullFormatter())


def round_ticks(first: int, last: int, most: int = 12) -> list[int]:
    """Returns whole numbers from the first to the last at even distances: all of them, or 1, 5, 10, 15."""
    span = max(last - first, 1)
    sizes = (unit * 10**power for power in range(10) for unit in (1, 2, 5))
    step = next(size for size in sizes if span / size < most)
    multiples = [n for n in range(first, last + 1) if n % step == 0]
    return multiples if multiples and multiples[0] == first else [first, *multiples]


def _draw_curves(axes: Axes, plot: Plot) -> None:
    axes.set(xlabel=plot.over, ylabel=plot.quantity)
    axes.grid(visible=True, axis="y", color=_INK, alpha=0.12, linewidth=0.6)
    for label, points in plot.curves.items():
        if points:
            marked = plot.logarithmic is None and len(points) <= _MARKED_POINTS
            axes.plot(
                *zip(*_placed(plot, points), strict=True),
                marker="o" if marked and not plot.is_dated else "",
                markersize=3.2,
                drawstyle="steps-post" if plot.is_dated else "default",
                label=label,
                clip_on=plot.logarithmic is not None,
            )
    for label, value in plot.levels.items():
        axes.axhline(value, linestyle="--", linewidth=1.0, color=_INK, alpha=0.7, label=label)
    for label, points in plot.steps.items():
        axes.plot(
            *zip(*(_placed(plot, points) if plot.is_dated else _widened(points)), strict=True),
            drawstyle="steps-post" if plot.is_dated else "steps-mid",
            linestyle="--",
            linewidth=1.0,
            color=_INK,
            alpha=0.7,
            label=label,
        )


def _placed(plot: Plot, points: Points) -> Points:
    """Returns points as matplotlib places them: it counts times in days."""
    return tuple((x / _DAY_SECONDS, y) for x, y in points) if plot.is_dated else points


def _widened(points: Points) -> Points:
    """Lengthens a line at both ends by half a step, so that one point is a line too."""
    (first, level), (last, limit) = points[0], points[-1]
    return ((first - 0.5, level), *points, (last + 0.5, limit))


def _changes(points: Points) -> list[str]:
    values = [f"{value:.4g}" for _, value in points]
    return [value for value, before in zip(values, ["", *values], strict=False) if value != before]


def _at(plot: Plot, x: float) -> str:
    if plot.is_dated:
        return f"on {moment(x)}"
    return f"after round {x:g}" if plot.over == "round" else f"at {plot.over} {x:.3g}"


def _as_attributes(style: re.Match[str]) -> str:
    """Turns a style attribute into presentation attributes, which say the same in SVG."""
    pairs = (part.partition(":") for part in style[1].split(";") if part.strip())
    attributes = {name.strip(): value.strip() for name, _, value in pairs}
    attributes.pop("font-family", None)  # the page's
    return " ".join(f'{name}="{value}"' for name, value in attributes.items())
