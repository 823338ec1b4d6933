"""Single rules: what each makes of a gradient."""

import numpy as np
import pytest
import torch

from hortus.privacy.gradients.clipping.adaptive import AdaptiveClipping
from hortus.privacy.gradients.clipping.automatic import AutomaticClipping
from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.clipping.per_layer import PerLayerClipping

NORMS = torch.tensor([[0.0, 0.01, 0.5, 2.0, 1e6]], dtype=torch.float64)


@pytest.mark.parametrize("bound", [0.3, 1.0, 50.0])
def test_flat_leaves_short_gradients_alone_and_cuts_long_ones_to_the_norm(bound: float) -> None:
    lengths = (FlatClipping().at(bound).factors(NORMS) * NORMS).numpy()
    assert np.allclose(lengths, np.minimum(bound, NORMS.numpy()), rtol=1e-12)


@pytest.mark.parametrize("bound", [0.3, 1.0, 50.0])
def test_adaptive_is_flat_in_units_of_the_norm(bound: float) -> None:
    flat = FlatClipping().at(bound).factors(NORMS)
    assert np.allclose(AdaptiveClipping().at(bound).factors(NORMS) * bound, flat, rtol=1e-12)


@pytest.mark.parametrize("bound", [0.3, 1.0, 50.0])
def test_automatic_brings_every_gradient_near_the_norm(bound: float) -> None:
    lengths = (AutomaticClipping(stability=0.1).at(bound).factors(NORMS) * NORMS).numpy()
    assert np.allclose(lengths, bound * NORMS.numpy() / (NORMS.numpy() + 0.1), rtol=1e-12)


def test_per_layer_cuts_each_layer_to_its_share() -> None:
    norms = torch.tensor([[0.1], [5.0], [80.0], [0.0]], dtype=torch.float64)
    lengths = (PerLayerClipping().at(2.0).factors(norms) * norms).numpy()[:, 0]
    assert np.allclose(lengths, [0.1, 1.0, 1.0, 0.0], rtol=1e-12)


def test_a_layer_is_what_the_adapter_adapts() -> None:
    names = (
        "a.lora_A.w",
        "a.lora_B.w",
        "b.modules_to_save.bias",
        "b.modules_to_save.weight",
        "c.bias",
    )
    assert PerLayerClipping().groups(names) == [0, 0, 1, 1, 2]
