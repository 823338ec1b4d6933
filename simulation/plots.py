"""Line plots: as an element of a page, or as a file of their own."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
from cycler import cycler
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hortus.protocol.errors import UsageError
from hortus.protocol.files import write_atomic

# Stands for the page's text colour, which a plot cannot know.
_INK = "#010203"
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.prop_cycle": cycler(
        color=("#2f8f5b", "#c2703d", "#5b7fc7", "#a35fb0", "#a68a1f", "#2f9a97")
    ),
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
    ),
}
# What an `id` is in matplotlib's SVG, and what refers to one.
_SVG_NAME = re.compile(r'(?<= id=")|(?<=href="#)|(?<=url\(#)')
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>:root {{ color-scheme: light dark; }} body {{ font: 16px/1.5 system-ui, sans-serif;
max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }} svg {{ width: 100%; height: auto; }}</style>
</head><body><h1>{title}</h1><figure role="img" aria-label="{words}">{svg}</figure><p>{words}</p>
</body></html>
"""

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """Some curves.

    Attributes:
        name: Tells its SVG identifiers from those of other plots.
        quantity: What is on the y axis.
        curves: Values over x, by label.
        levels: Horizontal lines, by label.
        remark: Stands in the plot when there is no curve.
        over: What is on the x axis.
        logarithmic: Smallest value shown of both axes, which are then logarithmic; None: linear.
    """

    name: str
    quantity: str
    curves: Mapping[str, Points]
    levels: Mapping[str, float] = field(default_factory=dict)
    remark: str = "There is nothing to show."
    over: str = "round"
    logarithmic: float | None = None


def svg(plot: Plot) -> Markup:
    """Returns the plot as an SVG element in the page's own text colour."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE | {"svg.hashsalt": plot.name}):
        _figure(plot).savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    element = buffer.getvalue()
    element = element[element.index("<svg") :].replace(_INK, "currentColor")
    return Markup(_SVG_NAME.sub(f"{plot.name}-", element))  # noqa: S704 - matplotlib escapes labels


def describe(plot: Plot) -> str:
    """Puts the plot into words, for who cannot see it."""
    parts = [
        f"{label}: {points[0][1]:.4g} {_at(plot, points[0][0])}, "
        f"{points[-1][1]:.4g} {_at(plot, points[-1][0])}"
        for label, points in plot.curves.items()
        if points
    ] or [plot.remark.removesuffix(".")]
    parts += [f"dashed line, {label}: {value:.4g}" for label, value in plot.levels.items()]
    return f"Plot of {plot.quantity}, by {plot.over}. {'; '.join(parts)}."


def write_plot(plot: Plot, path: Path, title: str) -> None:
    """Writes the plot to a file whose name ends in .svg, .png or .html.

    Raises:
        UsageError: The name ends in something else.
        HortusError: The file cannot be written.
    """
    if path.suffix == ".html":
        page = _PAGE.format(title=escape(title), words=escape(describe(plot)), svg=svg(plot))
        write_atomic(path, page.encode())
    elif path.suffix in {".svg", ".png"}:
        buffer = io.BytesIO()
        with mpl.rc_context(_STYLE | {"svg.hashsalt": plot.name}):
            _figure(plot).savefig(buffer, format=path.suffix[1:], dpi=160)
        write_atomic(path, buffer.getvalue())
    else:
        raise UsageError(
            f"no plot can be written as {path.suffix or 'a file without an ending'!r}",
            where=str(path),
            remedy="Name a file that ends in .svg, .png or .html.",
        )


def _figure(plot: Plot) -> Figure:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    _fill(figure.add_subplot(), plot)
    return figure


def _fill(axes: Axes, plot: Plot) -> None:
    axes.set(xlabel=plot.over, ylabel=plot.quantity)
    if plot.logarithmic is None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for label, points in plot.curves.items():
        if points:
            marker = "o" if plot.logarithmic is None else None
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=3.5, label=label)
    for label, value in plot.levels.items():
        axes.axhline(value, linestyle="--", linewidth=1.2, color=_INK, alpha=0.6, label=label)
    if not any(plot.curves.values()):
        axes.text(0.5, 0.5, plot.remark, ha="center", transform=axes.transAxes)
    if plot.logarithmic is None:
        axes.set_ylim(bottom=0)
    else:
        axes.set(xscale="log", yscale="log", xlim=(plot.logarithmic, 1), ylim=(plot.logarithmic, 1))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize="small")


def _at(plot: Plot, x: float) -> str:
    return f"after round {x:g}" if plot.over == "round" else f"at {plot.over} {x:.3g}"
