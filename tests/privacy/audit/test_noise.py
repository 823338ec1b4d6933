"""The noise that an auditor allows a plan is what the program can come to, and hardly more."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hortus.privacy.audit.noise import noise_range
from hortus.privacy.gradients.clipping.kinds import CLIPPINGS
from hortus.privacy.step import PrivateStep
from hortus.protocol.limits import MAX_SITES
from hortus.protocol.plan import Contract
from hortus.runtime.errors import UsageError


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_whatever_the_cohort_and_the_adapter_the_programs_noise_is_within(
    data: st.DataObject,
) -> None:
    minimum = data.draw(st.integers(2, 50))
    rule = data.draw(st.sampled_from(("flat", "adaptive", "per-layer")))
    contract = Contract.model_validate(
        {
            "name": "study",
            "model": "model",
            "task": {"kind": "text-classification", "labels": ["a", "b"]},
            "adapter": {"kind": "lora"},
            "strategy": {"kind": "fedsgd"},
            "training": {
                "rounds": 1,
                "sampling_rate": data.draw(st.sampled_from((1e-3, 0.1, 0.5, 1.0))),
                "nominal_units": data.draw(st.sampled_from((1, 60, 1000, 100_000))),
            },
            "privacy": {
                "noise": data.draw(st.sampled_from(("distributed", "local"))),
                "noise_multiplier": data.draw(st.floats(0.05, 100.0)),
                "spare_attempts": 2,
                "clipping_norm": data.draw(st.sampled_from((0.01, 1.0, 100.0))),
                "clipping": CLIPPINGS.complete({"kind": rule}),
                "ring_bits": data.draw(st.sampled_from((24, 32))),
            },
            "cohort": {"minimum": minimum, "max_colluding": data.draw(st.integers(0, minimum - 1))},
            "model_digest": "c" * 64,
        }
    )
    dimension = data.draw(st.sampled_from((1, 385, 30_000, 10_000_000)))
    cohort = data.draw(st.integers(minimum, MAX_SITES))
    try:
        event = PrivateStep.of(contract, dimension, cohort).event
    except UsageError:
        assume(False)
    assert event is not None
    least, most = noise_range(contract)
    assert least <= event.noise_multiplier <= most


def test_in_the_usual_ring_hardly_more_noise_is_allowed_than_the_plan_asks_for() -> None:
    contract = Contract.model_validate(
        {
            "name": "study",
            "model": "model",
            "task": {"kind": "text-classification", "labels": ["a", "b"]},
            "adapter": {"kind": "lora"},
            "strategy": {"kind": "fedsgd"},
            "training": {"rounds": 1, "sampling_rate": 0.1, "nominal_units": 1000},
            "privacy": {"noise_multiplier": 1.0, "spare_attempts": 2},
            "cohort": {"minimum": 3, "max_colluding": 1},
            "model_digest": "c" * 64,
        }
    )
    assert noise_range(contract)[1] < 1.002
