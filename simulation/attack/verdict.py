"""What an attack found, as numbers, a sentence that a lawyer understands, and a page."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hortus.pages.plots import Plot, Points, describe, svg
from hortus.pages.templates import templates
from hortus.privacy.attacks.detection import true_positive_bound, true_positive_bound_of
from hortus.privacy.attacks.membership_inference import Roc, likelihood_ratios
from hortus.privacy.attacks.one_run import LowerBound, audit_scores
from hortus.runtime.files import write_atomic
from hortus.simulation.attack.pipeline import Observation
from hortus.simulation.attack.secrets import COPIES, OTHERS, Secrets

FALSE_POSITIVE_RATES = (0.01, 0.001)
_SMALLEST_RATE = 1e-3
_CURVE_POINTS = 31


@dataclass(frozen=True, slots=True)
class Detection:
    """How well canaries can be told at one false positive rate, and how well the claim allows.

    Attributes:
        rate: The false positive rate.
        observer: True positive rate of the attacker that sees every sum.
        shadow: True positive rate of the likelihood-ratio attack on the finished model.
        bound: The largest that the whole mechanism allows; 1 without noise.
        point: The largest that the one pair (ε, δ) allows; 1 without noise.
    """

    rate: float
    observer: float
    shadow: float
    bound: float
    point: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attack found.

    Attributes:
        observation: What was seen.
        claim: ε that the plan claims; infinite without noise.
        delta: δ of claim and bound.
        bound: The empirical lower bound on ε.
        observer: ROC of the attacker that sees every sum.
        shadow: ROC of the likelihood-ratio attack.
        detections: By false positive rate.
    """

    observation: Observation
    claim: float
    delta: float
    bound: LowerBound
    observer: Roc
    shadow: Roc
    detections: tuple[Detection, ...]

    @property
    def exposed(self) -> bool:
        """Whether more leaks than is claimed."""
        return self.bound.epsilon > self.claim

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        trainings, canaries = self.observation.present.shape
        bound = self.bound
        found = (
            "This was a rehearsal: its noise came from the plan's seed, which the attacker was not given. "
            f"We planted {canaries} made-up records at the site {self.observation.site!r}, drew by lot in "
            f"each of {trainings} trainings which of them were really used, and let an attacker who sees all "
            f"that the server sees guess: {bound.correct} of {bound.guesses} guesses were right. "
        )
        confidence = f"{100 * bound.confidence:g} % confidence"
        if self.exposed:
            return found + (
                f"With {confidence}, what is released about one record is worth at least "
                f"ε = {bound.epsilon:.2f}, while the plan claims no more than ε = {self.claim:.2f}: the "
                "claim is false for this program, and nobody should rely on it."
            )
        if math.isinf(self.claim):
            return found + (
                f"With {confidence}, what is released about one record is worth at least "
                f"ε = {bound.epsilon:.2f}. The plan adds no noise and promises no limit, and there is none."
            )
        measured = (
            f"that shows, with {confidence}, a loss of at least ε = {bound.epsilon:.2f} for one record"
            if bound.epsilon > 0
            else "that is no more than chance explains"
        )
        return found + (
            f"Measured as a loss of privacy, {measured}; the plan promises that it is at most "
            f"ε = {self.claim:.2f}. The attack does not contradict the promise. It does not prove it "
            "either: that is done by the mathematics, for every attack."
        )


def judge(observation: Observation, confidence: float) -> Verdict:
    """Weighs what was seen against what is claimed.

    Raises:
        UsageError: The confidence is not between 0 and 1.
    """
    cost, present = observation.cost, observation.present
    delta = observation.contract.privacy.delta
    ratios = likelihood_ratios(observation.confidence, present)
    observer = Roc.of(observation.scores.ravel(), present.ravel())
    shadow = Roc.of(ratios.ravel(), present.ravel())
    claim = cost.epsilon(delta)
    history = {cost.event: cost.releases} if cost.event else None
    detections = tuple(
        Detection(
            rate=rate,
            observer=observer.at(rate),
            shadow=shadow.at(rate),
            bound=true_positive_bound_of(history, rate) if history else 1.0,
            point=true_positive_bound(claim, delta, rate),
        )
        for rate in FALSE_POSITIVE_RATES
    )
    bound = audit_scores(observation.scores.ravel(), present.ravel(), delta, confidence)
    return Verdict(observation, claim, delta, bound, observer, shadow, detections)


def write_page(verdict: Verdict, path: Path, secrets: Secrets | None = None) -> None:
    """Writes the page, self-contained.

    Args:
        verdict: What the attack found.
        path: Where to.
        secrets: What the model gives away of planted codes, if any were planted.

    Raises:
        HortusError: It cannot be written.
    """
    plot = _plot(verdict)
    page = templates("hortus.simulation.attack").get_template("attack.html")
    text = page.render(
        verdict=verdict,
        secrets=secrets,
        copies=COPIES,
        most_bits=math.log2(OTHERS + 1),
        contract=verdict.observation.contract,
        trainings=len(verdict.observation.present),
        canaries=verdict.observation.present.shape[1],
        absent=int((~verdict.observation.present).sum()),
        plot=svg(plot),
        words=describe(plot),
    )
    write_atomic(path, text.encode())


def _plot(verdict: Verdict) -> Plot:
    curves: dict[str, Points] = {
        "sees every sum": _points(verdict.observer),
        f"has the model and {len(verdict.observation.present) - 1} shadow models": _points(
            verdict.shadow
        ),
    }
    rates = np.geomspace(_SMALLEST_RATE, 1, _CURVE_POINTS)
    curves["guessing"] = tuple((float(rate), float(rate)) for rate in rates)
    cost = verdict.observation.cost
    if cost.event is not None:
        history = {cost.event: cost.releases}
        curves["most that the plan allows"] = tuple(
            (float(rate), true_positive_bound_of(history, float(rate))) for rate in rates
        )
    return Plot(
        "roc",
        "present canaries found",
        curves,
        over="absent canaries taken for present",
        logarithmic=_SMALLEST_RATE,
    )


def _points(roc: Roc) -> Points:
    pairs = zip(roc.false_positive.tolist(), roc.true_positive.tolist(), strict=True)
    # What lies at 0 is drawn at the left edge of logarithmic axes.
    return tuple((max(x, _SMALLEST_RATE), y) for x, y in pairs if y > 0)
