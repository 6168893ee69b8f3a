"""A draft model that is not made of numbers is warned of, once, and by name."""

import math

import pytest
import torch
from torch import nn

from vllm_mtad.runners.not_finite import logger, warn_of_states, warn_of_weights


@pytest.fixture
def said(monkeypatch):
    found: list[str] = []
    monkeypatch.setattr(logger, "warning", lambda message, *values: found.append(message % values))
    return found


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights(said, value):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    warn_of_weights(model, "some/draft")
    assert said == []
    with torch.no_grad():
        model[1].weight[1, 2] = value
        model[1].bias[0] = value
    warn_of_weights(model, "some/draft")
    (sentence,) = said
    assert "The draft model some/draft has weights in 1.weight that are NaN or infinite" in sentence


def test_quantized_weights_are_not_looked_at(said):
    model = nn.ParameterList([nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)])
    warn_of_weights(model, "some/draft")
    assert said == []


def test_states(said):
    assert not warn_of_states(torch.ones(2, 3), "some/draft")
    assert warn_of_states(torch.tensor([[0.0, math.nan]]), "some/draft")
    assert len(said) == 1
