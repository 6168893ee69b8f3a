"""The corrections of vLLM's sampled draft_model on a CPU, against vLLM's own docstrings."""

import torch

from vllm_mtad.tools.harness.corrected_worker import apply_sampling_constraints, expand_batch_to_tokens


def test_values_are_repeated_for_each_requests_tokens_and_one_value_is_replaced():
    cumulative = torch.tensor([2, 5, 6], dtype=torch.int32)
    expanded = expand_batch_to_tokens(torch.tensor([0.5, 0.0, 2.0]), cumulative, 6, 0, 1)
    assert expanded.tolist() == [0.5, 0.5, 1, 1, 1, 2]
    assert expand_batch_to_tokens(torch.tensor([7, 0]), torch.tensor([1, 1]), 1).tolist() == [7]


def test_a_step_without_drafts_has_nothing_to_constrain():
    assert apply_sampling_constraints(torch.zeros(0, 8), torch.tensor([0, 0]), None).shape == (0, 8)
