"""Plots as SVG in the page's own colours: light, dark and on paper, under any content policy."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
from cycler import cycler
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Stand for colours of the page, which a plot cannot know: its text, and six for curves. The style
# sheet defines the variables, and each curve has a dash of its own beside its colour.
_INK = "#010203"
_CURVES = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
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
# More points than these run into one another.
_MARKED_POINTS = 40
# What an `id` is in matplotlib's SVG, and what refers to one.
_SVG_NAME = re.compile(r'(?<= id=")|(?<=href="#)|(?<=url\(#)')
_SVG_STYLE_SHEET = re.compile(r"<style[^>]*>.*?</style>", re.DOTALL)
_SVG_STYLE = re.compile(r'(?<= )style="([^"]*)"')

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """A quantity over rounds.

    Attributes:
        name: Tells its SVG identifiers from those of other plots on the page.
        quantity: What is on the y axis.
        curves: Values by round, by label.
        levels: Horizontal lines, by label.
        remark: Stands in the plot when there is no curve.
        last: Last round on the x axis; None for the last with a value.
    """

    name: str
    quantity: str
    curves: Mapping[str, Points]
    levels: Mapping[str, float] = field(default_factory=dict)
    remark: str = ""
    last: int | None = None


def draw(plot: Plot) -> Markup:
    """Returns the plot as an SVG element."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.4, 3.0), layout="constrained")
        _fill(figure.add_subplot(), plot)
        return svg_of(figure, plot.name)


def svg_of(figure: Figure, name: str) -> Markup:
    """Returns any figure as an SVG element without style attributes, which a page may forbid.

    Args:
        figure: The figure; colours that `style` sets become the page's.
        name: Tells its identifiers from those of other figures on the page.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    svg = buffer.getvalue()
    svg = _SVG_STYLE_SHEET.sub("", svg[svg.index("<svg") :])
    svg = _SVG_STYLE.sub(_as_attributes, svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return Markup(_SVG_NAME.sub(f"{name}-", svg))  # noqa: S704 - matplotlib escapes labels


def style() -> Mapping[str, object]:
    """Returns the `rc_context` that figures for `svg_of` are made in."""
    return dict(_STYLE)


def describe(plot: Plot) -> str:
    """Puts the plot into words, for who cannot see it."""
    parts = [
        f"{label}: {points[0][1]:.4g} after round {points[0][0]}, "
        f"{points[-1][1]:.4g} after round {points[-1][0]}"
        for label, points in plot.curves.items()
        if points
    ] or [plot.remark.removesuffix(".")]
    parts += [f"dashed line, {label}: {value:.4g}" for label, value in plot.levels.items()]
    return f"Plot of {plot.quantity}, by round. {'; '.join(parts)}."


def together(names: Sequence[str]) -> str:
    """Returns one label for things that share a curve, which would hide all but one."""
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]} and {len(names) - 1} more"


def _fill(axes: Axes, plot: Plot) -> None:
    axes.set(xlabel="round", ylabel=plot.quantity)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, axis="y", color=_INK, alpha=0.12, linewidth=0.6)
    for label, points in plot.curves.items():
        if points:
            marker = "o" if len(points) <= _MARKED_POINTS else ""
            axes.plot(
                *zip(*points, strict=True),
                marker=marker,
                markersize=3.2,
                label=label,
                clip_on=False,
            )
    for label, value in plot.levels.items():
        axes.axhline(value, linestyle="--", linewidth=1.0, color=_INK, alpha=0.7, label=label)
    if not any(plot.curves.values()):
        axes.text(0.5, 0.5, plot.remark, ha="center", transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
    elif plot.last is not None:
        axes.set_xlim(1, max(plot.last, 2))
    axes.set_ylim(bottom=0)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(fontsize="small")


def _as_attributes(style: re.Match[str]) -> str:
    """Turns a style attribute into presentation attributes, which say the same in SVG."""
    pairs = (part.partition(":") for part in style[1].split(";") if part.strip())
    attributes = {name.strip(): value.strip() for name, _, value in pairs}
    attributes.pop("font-family", None)  # the page's
    return " ".join(f'{name}="{value}"' for name, value in attributes.items())
