"""Numbers as pages and tables write them; a bound is rounded up, so that it stays one."""

import math


def percent(value: float | None) -> str:
    """Writes a share of one."""
    return "–" if value is None else f"{100 * value:.1f} %"


def bound(epsilon: float | None) -> str:
    """Writes an ε, or that it has no bound if it is None."""
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
    """Writes how sure somebody who considered it as likely as not can become; rounded up."""
    share = 1 / (1 + math.exp(-min(epsilon, 700)))
    shown = math.ceil(10_000 * share) / 100
    return "as good as certain" if shown >= 100 else f"{shown:g} % sure"


def percent_up(share: float) -> str:
    """Writes an upper bound on a share."""
    return f"{math.ceil(1000 * share) / 10:.1f} %"
