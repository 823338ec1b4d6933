"""Plots that fit into any page, and are whole without it."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image

from hortus.pages.numbers import bound, percent, power
from hortus.pages.plots import Plot, _figure, describe, round_ticks, svg, write_plot
from hortus.runtime.errors import UsageError

CURVES = {f"site {n}": tuple((x, float(x * n)) for x in range(1, 9)) for n in range(1, 7)}
PLOT = Plot("epsilon", "ε", CURVES, {"budget 8": 8.0})


def test_a_plot_has_the_pages_colours_and_no_style_attribute() -> None:
    element = svg(PLOT)
    assert "style" not in element
    assert not re.search(r"#[0-9a-f]{6}", element), "every colour is the page's"
    for number in range(1, 7):
        assert f"var(--curve-{number})" in element


def test_every_curve_has_a_dash_of_its_own() -> None:
    strokes = re.findall(
        r'<path d="[^"]*" clip-path|<path d="[^"]*" ([^>]*var\(--curve[^>]*)/>', svg(PLOT)
    )
    dashes = {
        (re.search(r'stroke-dasharray="[^"]*"', stroke) or [""])[0]
        for stroke in strokes
        if stroke and 'fill="none"' in stroke
    }
    assert len(dashes) == 6


def test_colours_on_paper_are_those_of_the_light_page() -> None:
    style = (files("hortus.pages") / "style.css").read_text(encoding="utf-8")
    light = style[: style.index("@media")]
    colours = re.findall(r"--curve-\d: (#[0-9a-f]{6})", light)
    assert len(colours) == 6
    drawn = svg(PLOT)
    assert all(colour not in drawn for colour in colours)


def test_two_plots_share_no_identifier() -> None:
    one, other = (svg(Plot(name, "ε", CURVES)) for name in ("one", "other"))
    ids = [set(re.findall(r' id="([^"]+)"', element)) for element in (one, other)]
    assert not ids[0] & ids[1]
    for element, own in zip((one, other), ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', element)) <= own


def test_a_label_is_text_whatever_it_is() -> None:
    element = svg(Plot("x", "<b>", {'<script>alert("1")</script>': ((1, 1.0), (2, 2.0))}, {"$": 1}))
    assert "<script" not in element
    assert "<b>" not in element


def test_no_curve_leaves_the_remark() -> None:
    empty = Plot("x", "ε", {"a": ()}, remark="Nothing yet.")
    assert "Nothing yet." in svg(empty)
    assert describe(empty) == "Plot of ε, by round. Nothing yet."


@pytest.mark.parametrize("ending", [".svg", ".png", ".html"])
def test_a_plot_is_written_as_a_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"plot{ending}"
    write_plot(PLOT, path, "A <title>")
    if ending == ".png":
        colours = Image.open(path).convert("RGB").getcolors(2**24)
        assert colours is not None
        assert (0x1F, 0x7A, 0x4D) in {colour for _, colour in colours}
    else:
        text = path.read_text(encoding="utf-8")
        assert ("var(--" in text) == (ending == ".html")
    if ending == ".html":
        assert "A &lt;title&gt;" in text
        assert describe(PLOT) in text
    with pytest.raises(UsageError, match=r"\.svg, \.png or \.html"):
        write_plot(PLOT, tmp_path / "plot.pdf", "title")


def test_numbers_are_written_as_people_write_them() -> None:
    assert [power(x) for x in (1e-5, 2.5e-6, 0.001, 0.5, 1e-10)] == [
        *("10⁻⁵", "2.5·10⁻⁶", "0.001", "0.5", "10⁻¹⁰")
    ]
    assert (percent(0.8425), percent(None)) == ("84.2 %", "–")
    assert (bound(1.5), bound(None)) == ("1.500", "no bound")


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (1, 2, [1, 2]),
        (1, 6, [1, 2, 3, 4, 5, 6]),
        (1, 12, list(range(1, 13))),
        (1, 14, [1, 2, 4, 6, 8, 10, 12, 14]),
        (1, 40, [1, 5, 10, 15, 20, 25, 30, 35, 40]),
        (1, 1000, [1, *range(100, 1001, 100)]),
        (10, 30, [10, *range(12, 31, 2)]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_whole_numbers_the_first_among_them(
    first: int, last: int, expected: list[int]
) -> None:
    assert round_ticks(first, last) == expected


def test_a_tick_stands_above_all_that_is_shown_and_no_point_on_an_axis() -> None:
    rising = Plot("x", "%", {"a": ((1, 41.0), (2, 78.0))}, {"level": 83.0}, last=6)
    ticks = [*"123456", "0", "20", "40", "60", "80", "100"]
    assert re.findall(r">(\d+)</text>", svg(rising)) == ticks * 2, "broad, and for a telephone"


def test_values_below_zero_are_within_the_picture() -> None:
    (axes,) = _figure(Plot("p", "log-likelihood", {"run": ((1, -8.5), (2, -3.0))})).axes
    below, above = axes.get_ylim()
    assert below <= -8.5 < -3.0 < 0 <= above
    (axes,) = _figure(Plot("p", "correlation", {"run": ((1, -0.2), (2, 0.7))})).axes
    below, above = axes.get_ylim()
    assert below <= -0.2 < 0.7 <= above
    assert 0 in axes.get_yticks()


def test_shares_are_told_in_per_cent_and_no_raw_markup_is_drawn() -> None:
    curve = tuple((10.0**-power, 10.0**-power) for power in (3, 2, 1, 0))
    element = svg(Plot("roc", "found", {"a": curve}, over="false alarms", logarithmic=1e-3))
    assert re.findall(r">([\d.]+ %)</text>", element) == ["0.1 %", "1 %", "10 %", "100 %"] * 4
    assert "mathdefault" not in element


def test_a_limit_that_changes_is_a_line_with_a_step_within_the_picture() -> None:
    points = ((1.0, 2.0), (2.0, 3.0), (3.0, 4.0))
    limit = ((1.0, 8.0), (2.0, 8.0), (3.0, 12.0))
    plot = Plot("p", "ε", {"ash": points}, over="round in the ledger", steps={"limit": limit})
    assert "dashed line, limit: 8, then 12" in describe(plot)
    axes = _figure(plot).axes[0]
    (line,) = [line for line in axes.lines if line.get_label() == "limit"]
    assert line.get_drawstyle() == "steps-mid"
    assert axes.get_ylim()[1] >= 12
    level = Plot("p", "ε", {"ash": points}, steps={"limit": limit[:1]})
    assert "dashed line, limit: 8." in describe(level)
    assert "<path" in svg(level)


def test_times_are_named_in_utc_and_a_value_lasts_until_the_next() -> None:
    spent = ((1.8e9, 1.0), (1.8e9 + 7_200, 3.0))
    plot = Plot("p", "ε", {"spent": spent}, over="time, UTC", is_dated=True)
    assert "1 on 15 Jan 2027 08:00 UTC, 3 on 15 Jan 2027 10:00 UTC" in describe(plot)
    (line,) = _figure(plot).axes[0].lines
    assert line.get_drawstyle() == "steps-post"
    assert {"08:00", "09:00", "10:00"} <= set(re.findall(r">(\d\d:\d\d)</text>", svg(plot)))
    once = Plot("p", "ε", {"spent": spent[:1]}, over="time, UTC", is_dated=True)
    assert "<path" in svg(once), "one moment has an axis too"
