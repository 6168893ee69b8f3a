"""Where the rows of trees stand on V1, in a KV cache whose entries say what was written there."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadataBuilder,
)
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from vllm_mtad.algorithm.tree import DraftTree, node_depths
from vllm_mtad.runners.v1.branches import VerifiedTree
from vllm_mtad.runners.v1.scratch import ScratchPlan
from vllm_mtad.runners.v1.tree_verification import TreeVerification

GAMMA, CANDIDATES, BLOCK = 4, 3, 4
NODES, NUM_BLOCKS, MAX_BLOCKS = GAMMA * CANDIDATES, 200, 12


def committed(request, position):
    return 1000 * request + position + 1


def of_row(request, row):
    return 1000 * request + 500 + row


def random_trees(num_reqs, seed):
    """Whole chosen drafts; of the others some are missing, with all that would extend them."""
    generator, depths = np.random.default_rng(seed), node_depths(GAMMA, CANDIDATES)
    trees = DraftTree.empty(num_reqs, GAMMA, CANDIDATES, torch.device("cpu"))
    for request in range(num_reqs):
        is_there = [0]
        for node, depth in enumerate(depths):
            parents = [row for row in is_there if (depths[row - 1] if row else 0) == depth - 1]
            is_chosen = node < GAMMA
            if is_chosen or (parents and generator.random() < 0.7):
                trees.parents[request, node] = node if is_chosen else int(generator.choice(parents))
                trees.tokens[request, node] = 7
                is_there.append(node + 1)
    return trees


class Step:
    """Request i has `roots[i]` tokens with KV and a tree, of which `scheduled[i]` nodes fit into the step; the last
    request is a prompt of five tokens more."""

    def __init__(self, roots, scheduled, trees):
        self.roots, self.trees = [*roots, 6], trees
        self.counts = [1 + n for n in scheduled] + [5]
        num_reqs = len(self.counts)
        self.req_ids = [f"r{i}" for i in range(num_reqs)]
        self.blocks = 1 + torch.randperm(NUM_BLOCKS - 101, generator=torch.Generator().manual_seed(3))
        self.blocks = self.blocks[: num_reqs * MAX_BLOCKS].view(num_reqs, MAX_BLOCKS).int()
        self.kv = torch.zeros(NUM_BLOCKS, BLOCK, 1, dtype=torch.int64)
        for request, root in enumerate(self.roots):
            for position in range(root):
                self.at(self.blocks[request], position)[:] = committed(request, position)
        self.starts = [0, *np.cumsum(self.counts).tolist()]
        self.positions = torch.cat([root + torch.arange(n) for root, n in zip(self.roots, self.counts)])
        self.verification, self.build, self.layer = self._verification(num_reqs)

    def at(self, blocks, position):
        return self.kv[blocks[position // BLOCK], position % BLOCK]

    def _verification(self, num_reqs):
        def write(layer, key, value, kv_cache, slot_mapping):
            is_real = slot_mapping >= 0
            kv_cache.view(-1, 1)[slot_mapping[is_real]] = key[is_real]

        layer = SimpleNamespace(impl=SimpleNamespace(do_kv_cache_update=write), kv_cache=self.kv)
        builder = SimpleNamespace(build=lambda prefix_len, common: common)
        group = SimpleNamespace(kv_cache_spec=SimpleNamespace(block_size=BLOCK), metadata_builders=[builder])
        drafts = np.array([n - 1 for n in self.counts[:-1]] + [-1])
        self.runner = SimpleNamespace(
            compilation_config=SimpleNamespace(static_forward_context={"target": layer}),
            input_batch=SimpleNamespace(req_ids=self.req_ids, num_computed_tokens_cpu=np.array(self.roots)),
            num_decode_draft_tokens=SimpleNamespace(np=drafts),
            positions=self.positions.clone(),
        )
        others = NODES - GAMMA
        plan = ScratchPlan(1, 4, 1, 1, branches=num_reqs * others, blocks_per_branch=(BLOCK + GAMMA - 1) // BLOCK + 1)
        verification = TreeVerification(self.runner, group, ["target"], plan, GAMMA)
        # Drafted in another order than they are verified in now.
        order = torch.arange(num_reqs - 1).flip(0)
        verification.expect([self.req_ids[i] for i in order], self.trees.of_requests(order))
        return verification, builder.build, layer

    def run(self):
        """The metadata that vLLM's attention is given, once keys and values are written."""
        starts = torch.tensor(self.starts, dtype=torch.int32)
        requests = torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))
        slots = self.blocks[requests, self.positions // BLOCK].long() * BLOCK + self.positions % BLOCK
        common = CommonAttentionMetadata(
            query_start_loc=starts,
            query_start_loc_cpu=starts,
            seq_lens=torch.tensor([root + n for root, n in zip(self.roots, self.counts)], dtype=torch.int32),
            num_reqs=len(self.counts),
            num_actual_tokens=self.starts[-1],
            max_query_len=max(self.counts),
            max_seq_len=max(self.roots) + NODES,
            block_table_tensor=self.blocks,
            slot_mapping=slots,
        )
        laid_out = self.build(0, common)
        keys = [of_row(i, row) for i, n in enumerate(self.counts) for row in range(n)]
        key = torch.tensor(keys)[:, None]
        self.layer.impl.do_kv_cache_update(self.layer, key, key, self.kv, slots)
        return laid_out

    def path(self, request, row):
        """From row 0, from the tree alone."""
        if request == len(self.counts) - 1:
            return list(range(row + 1))
        nodes = [node for node, token in enumerate(self.trees.tokens[request].tolist()) if token >= 0]
        there = self.trees.path(request, nodes[row - 1] + 1) if row else []
        return [0, *(nodes.index(at - 1) + 1 for at in there)]

    def text(self, request, row):
        """What a row must see, and its position."""
        path = self.path(request, row)
        before = [committed(request, position) for position in range(self.roots[request])]
        return before + [of_row(request, at) for at in path], self.roots[request] + len(path) - 1


def step(seed):
    generator, num_reqs = np.random.default_rng(seed), 3
    trees = random_trees(num_reqs, seed)
    most = (trees.tokens >= 0).sum(1).tolist()
    scheduled = [n if generator.random() < 0.6 else int(generator.integers(0, n + 1)) for n in most]
    return Step(generator.integers(1, 30, num_reqs).tolist(), scheduled, trees)


@pytest.mark.parametrize("seed", range(30))
def test_every_row_sees_the_text_and_its_ancestors(seed):
    assert_every_row_sees_its_text(step(seed))


def assert_every_row_sees_its_text(batch):
    metadata = batch.run()
    ends, rows = metadata.query_start_loc.tolist(), 0
    request_of = [i for i, n in enumerate(batch.counts) for _ in range(n)]
    for sequence in range(metadata.num_reqs):
        num_queries, length = ends[sequence + 1] - ends[sequence], int(metadata.seq_lens[sequence])
        for query in range(num_queries):
            at = ends[sequence] + query
            expected, position = batch.text(request_of[at], at - batch.starts[request_of[at]])
            blocks = metadata.block_table_tensor[sequence]
            seen = [int(batch.at(blocks, p)) for p in range(length - num_queries + query + 1)]
            assert seen == expected
            assert int(batch.runner.positions[at]) == position
            rows += 1
    assert rows == ends[-1] == batch.starts[-1]


@pytest.mark.parametrize("seed", range(30))
def test_what_is_kept_stands_in_the_requests_own_blocks(seed):
    batch = step(seed)
    batch.run()
    generator = np.random.default_rng(seed)
    kept = [int(generator.integers(0, n)) for n in batch.counts[:-1]] + [0]
    batch.verification.keep(kept)
    for request, row in enumerate(kept[:-1]):
        expected, position = batch.text(request, row)
        assert [int(batch.at(batch.blocks[request], p)) for p in range(position + 1)] == expected
    of_paths = [[batch.starts[i] + at for at in batch.path(i, row)] for i, row in enumerate(kept[:-1])]
    prompt = range(batch.starts[-2], batch.starts[-1])
    as_texts = [range(rows[0], rows[0] + len(rows)) for rows in of_paths] + [prompt]
    assert list(map(list, batch.verification.kept_rows(as_texts))) == [*of_paths, list(prompt)]


def test_the_random_steps_are_what_the_tests_need():
    batches = [step(seed) for seed in range(30)]
    assert any(batch.starts[1] - 1 < GAMMA for batch in batches), "no chain beside trees"
    paths = [batch.path(0, row) for batch in batches for row in range(GAMMA + 1, batch.counts[0])]
    assert any(len(path) == GAMMA + 1 for path in paths)
    assert any(0 < path[1] <= GAMMA for path in paths if len(path) > 2), "no branch off the chosen draft"


def test_a_step_after_chains_is_a_text():
    batch = step(0)
    batch.verification.expect(batch.req_ids, None)
    assert batch.run().num_reqs == len(batch.counts)
    assert batch.verification.trees is None


def test_a_chosen_draft_that_ends_early_leaves_its_place_to_nobody():
    """Where q turned NaN, only its first tokens are there; the others are still on branches."""
    trees = random_trees(1, seed=1)
    trees.tokens[0, 2:GAMMA] = -1
    is_gone = {3, 4}
    for node in range(GAMMA, NODES):
        if int(trees.parents[0, node]) in is_gone:
            trees.tokens[0, node] = -1
            is_gone.add(node + 1)
    batch = Step([9], [int((trees.tokens[0] >= 0).sum())], trees)
    assert batch.counts[0] > 3, "nothing beside the chosen draft"
    assert_every_row_sees_its_text(batch)


def test_absent_nodes_have_no_row():
    tree = VerifiedTree.of([7, 7, -1, 8, 9], [0, 1, 0, 0, 4], 4)
    assert tree.nodes == [0, 1, 3, 4]
    assert tree.parents == [0, 0, 1, 0, 3]
    assert tree.depths == [0, 1, 2, 1, 2]
    assert tree.path(4) == [0, 3, 4]


def test_vllm_has_what_trees_hook_into():
    """One metadata builder a group, whose `build` sees the step; and keys and values are written by themselves."""

    def parameters(function):
        return list(inspect.signature(function).parameters)

    assert parameters(CPUAttentionMetadataBuilder.build)[1:3] == ["common_prefix_len", "common_attn_metadata"]
    expected = ["self", "layer", "key", "value", "kv_cache", "slot_mapping"]
    assert parameters(CPUAttentionBackendImpl.do_kv_cache_update) == expected
    assert CPUAttentionBackend.forward_includes_kv_cache_update is False
    assert "self.positions[:num_tokens_padded]" in inspect.getsource(GPUModelRunner._build_attention_metadata)
    source = inspect.getsource(GPUModelRunner.execute_model)
    steps = ["self._prepare_inputs(", "self._build_attention_metadata(", "self._preprocess(", "self._model_forward("]
    assert [source.index(step) for step in steps] == sorted(source.index(step) for step in steps)
