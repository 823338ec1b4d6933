"""Templates of a package, with the style sheet and the parts that all pages share."""

import math

import jinja2
from markupsafe import Markup

from hortus.runtime.errors import printable
from hortus.runtime.metric import cells

# An ε above this promises little.
LITTLE = 10.0


def templates(*packages: str) -> jinja2.Environment:
    """Returns an environment whose values are escaped and whose undefined names are errors.

    Args:
        packages: Where templates are looked for, in this order; after them in `hortus.pages`, which
            has `style.css` and `parts.html`.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(package, ".") for package in (*packages, "hortus.pages")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters["lines"] = lines
    environment.filters["percent"] = percent
    environment.filters["cells"] = cells
    environment.filters["bound"] = bound
    environment.filters["power"] = power
    environment.filters["factor"] = factor
    environment.filters["sure"] = sure
    environment.globals["little"] = LITTLE
    return environment


def _shown(value: object) -> object:
    """Takes out of another party's words what a browser or a reader of the page's source would obey."""
    return printable(value) if type(value) is str else value


def lines(document: str) -> Markup:
    """Shows a document of several lines, for a `<pre>`: its line breaks stay, all else is cleaned."""
    return Markup("\n").join(map(printable, document.split("\n")))


def percent(value: float | None) -> str:
    """Writes a share of one."""
    return "–" if value is None else f"{100 * value:.1f} %"


def bound(epsilon: float | None) -> str:
    """Writes an ε; None says that there is none."""
    return "no bound" if epsilon is None else f"{epsilon:.3f}"


def power(number: float) -> str:
    """Writes a small number as people do: 0.001, 10⁻⁵, 2.5·10⁻⁶."""
    mantissa, found, exponent = f"{number:g}".partition("e")
    if not found:
        return mantissa
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if mantissa == "1" else f"{mantissa}·10{raised}"


def factor(epsilon: float) -> str:
    """Writes e^ε, rounded up."""
    if epsilon > 700:
        return "no bound"
    times = math.exp(epsilon)
    if times >= 1e6:
        return power(float(f"{times * 1.05:.1e}"))
    return f"{math.ceil(times):,}" if times >= 100 else f"{math.ceil(100 * times) / 100:g}"


def sure(epsilon: float) -> str:
    """Writes how sure somebody can become who thought it as likely as not; rounded up."""
    share = 1 / (1 + math.exp(-min(epsilon, 700)))
    shown = math.ceil(10_000 * share) / 100
    return "as good as certain" if shown >= 100 else f"{shown:g} % sure"
