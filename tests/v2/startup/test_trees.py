"""The target's side of several candidates on tensors without data, at every size that it is run or captured at."""

import sys

import pytest
from triton.runtime.interpreter import GridExecutor

from benchmarks.kernels_on_paper.pieces import Shape
from benchmarks.kernels_on_paper.trees import Trees
from tests.v2.startup.gpus import GPUS, default_sizes_of
from tests.v2.startup.shapes import PAIRS
from tests.v2.startup.stand_ins import META, check_launch, flash_attention
from tests.v2.startup.test_sizes import configured
from vllm_mtad.runners.v2.graphs import schedule_of


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.setattr(GridExecutor, "__call__", check_launch)
    monkeypatch.setitem(sys.modules, "vllm.vllm_flash_attn", flash_attention())


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
@pytest.mark.parametrize(("gamma", "candidates"), [(1, 2), (4, 4), (8, 4), (12, 8)])
def test_every_batch_of_trees(pairs, gpu, pair, gamma, candidates):
    """Alone, padded for a graph, and beside a request without a draft."""
    with default_sizes_of(gpu):
        config = configured(pairs[pair], gamma, candidates, num_candidates=candidates)
    target = PAIRS[pair][0]
    shape = Shape(
        beam_width=candidates,
        gamma=gamma,
        num_candidates=candidates,
        num_heads=target.num_attention_heads,
        num_kv_heads=target.num_key_value_heads,
        head_size=target.head_dim,
        max_num_reqs=config.scheduler_config.max_num_seqs,
    )
    trees = Trees(shape, META, flash=gpu.capability[0] == 9)
    assert trees.num_nodes == config.num_speculative_tokens
    drafts = schedule_of(config)
    most = max((n for n, length in enumerate(drafts) if n and length == trees.num_nodes), default=0)
    assert most * (trees.num_nodes + 1) <= config.speculative_config.options.max_candidate_rows
    for num_reqs in {1, 3, most} & set(range(1, most + 1)):
        trees.verify([trees.num_nodes] * num_reqs)
        trees.verify([trees.num_nodes] * num_reqs, num_reqs + 1)
        trees.verify([trees.num_nodes] * num_reqs + [0])
