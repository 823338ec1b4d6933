"""Templates of a package, with the style sheet and the parts that all pages share."""

import jinja2
from markupsafe import Markup

from hortus.pages.numbers import bound, factor, percent, percent_up, power, sure
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
    environment.filters["percent_up"] = percent_up
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
    """Shows a document of several lines, for a `<pre>`: its line breaks stay, and everything else is cleaned."""
    return Markup("\n").join(map(printable, document.split("\n")))
