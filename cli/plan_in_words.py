"""A plan in plain words, for the person who must approve it."""

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from hortus.learning.methods.kinds import METHODS
from hortus.learning.tasks.kinds import TASKS
from hortus.pages.numbers import factor
from hortus.parties.folders import SiteConfig, SiteFiles
from hortus.privacy.attacks.detection import true_positive_bound_of
from hortus.protocol.policy import Policy
from hortus.runtime.errors import printable
from hortus.simulation.prospect import doubts_about, refusal_at, site_budgets, units_at
from hortus.strategies.kinds import strategy_of

if TYPE_CHECKING:
    from hortus.simulation.prospect import Prospect

_FALSE_POSITIVE_RATES = (0.01, 0.001)


def explain(what: "Prospect", plan_file: Path, site: Path | None) -> str:
    """Returns the explanation, in Markdown.

    Args:
        what: The plan.
        plan_file: Where it is, for the command that approves it.
        site: A site's folder, whose budget and policy are then explained too.

    Raises:
        UsageError: The site's folder cannot be used.
        HortusError: Its ledger was altered.
    """
    delta = what.contract.privacy.delta
    history = {what.cost.event: what.cost.releases} if what.cost.event else {}
    budgets = site_budgets(what, None, None, site) if site else []
    here = min(map(what.cost.forecast, budgets), key=lambda one: one.rounds, default=None)
    text = _template().render(
        contract=what.contract,
        task=TASKS.parse(what.contract.task),
        method=METHODS.parse(what.contract.adapter),
        code=_code,
        dimension=what.dimension,
        words=what.encoding.words,
        strategy=strategy_of(what.contract).words,
        moves=what.encoding.rule.moves,
        sums=what.contract.sums,
        event=what.cost.event,
        epsilon=what.cost.epsilon(delta),
        spare=what.cost.spare,
        unspared=what.cost.epsilon_unspared(delta),
        delta=delta,
        bounds=[(rate, true_positive_bound_of(history, rate)) for rate in _FALSE_POSITIVE_RATES],
        here=here,
        at_site=SiteConfig.load(SiteFiles(site).config).site if site else "",
        most_honest=_most_honest(what, site),
        refusal=refusal_at(what, site) if site else "",
        doubts=doubts_about(what, units_at(what, site) if site else None),
        site_dir=printable(shlex.quote(str(site))) if site else "SITE_DIR",
        plan_file=printable(shlex.quote(str(plan_file))),
    )
    return text.lstrip()


def _template() -> jinja2.Template:
    # The plan's words come from another party: they are shown as they are and cannot pass for ours.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hortus.cli", "."),
        autoescape=False,  # noqa: S701 - Markdown, and every word of the plan goes through `_code`
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": _code,
        "plain": printable,
        "up": _up,
        "exact_percent": _exact_percent,
        "bound": _bound,
        "odds": _odds,
        "factor": factor,
    }
    return environment.get_template("plan_in_words.md")


def _most_honest(what: "Prospect", site: Path | None) -> int:
    """How many of the smallest sum's sites the site's policy assumes to be honest; 0 without a site."""
    if site is None:
        return 0
    return Policy.load(SiteFiles(site).policy).most_honest(what.contract.cohort.minimum)


def _code(text: str) -> str:
    return f"`{printable(text).replace('`', '�')}`"


def _up(value: float, digits: int) -> str:
    """Writes a bound with this many digits, rounded up."""
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1) if value > 0 else 1.0
    return f"{math.ceil(value / unit - 1e-9) * unit:.{digits}g}"


def _exact_percent(share: float) -> str:
    return f"{100 * share:g} %"


def _bound(share: float) -> str:
    """Writes a bound on a share; close to 100 %, with enough digits to differ from it."""
    return f"{_up(100 * share, 2 if share < 0.95 else 4)} %"


def _odds(probability: float) -> str:
    return f"1 in {1 / probability:,.0f}"
