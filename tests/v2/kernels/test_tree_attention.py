"""Trees laid out and attended to, against dense attention over each node's own path."""

import pytest
import torch

from tests.v2.kernels.test_beam_attention import TOLERANCE, dense_attention
from vllm_mtad.algorithm.tree import node_depths
from vllm_mtad.runners.v2.kernels.prefix_attention import plan_splits, prefix_attention
from vllm_mtad.runners.v2.kernels.tree_attention import tree_attention
from vllm_mtad.runners.v2.kernels.tree_layout import lay_out_trees
from vllm_mtad.runners.v2.trees import DraftTrees


class TreeBatch:
    """Request r has `lens[r]` tokens up to its newest and rows for `num_nodes[r]` of its nodes."""

    def __init__(
        self,
        device,
        lens,
        num_nodes,
        gamma=3,
        candidates=3,
        heads=(8, 2),
        head_size=32,
        page=16,
        dtype=torch.float32,
        window=0,
        soft_cap=0.0,
        has_sinks=False,
    ):
        generator = torch.Generator().manual_seed(gamma * 10 + candidates)

        def random(*shape):
            return torch.randn(*shape, generator=generator).to(device, dtype)

        self.lens, self.num_nodes, self.gamma, self.head_size = lens, num_nodes, gamma, head_size
        self.depths = node_depths(gamma, candidates)
        num_reqs, nodes, (num_heads, num_kv_heads) = len(lens), len(self.depths), heads
        self.states = torch.randperm(num_reqs + 2, generator=generator)[:num_reqs].to(device)
        self.trees = DraftTrees.allocate(num_reqs + 2, gamma, candidates, device)
        for node in range(gamma, nodes):
            rows = [row + 1 for row, other in enumerate(self.depths[:node]) if other == self.depths[node] - 1] or [0]
            drawn = torch.tensor(rows)[torch.randint(0, len(rows), (num_reqs + 2,), generator=generator)]
            self.trees.parents[:, node] = drawn.int().to(device)
        counts = torch.tensor(num_nodes) + 1
        self.first_rows = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]).int().to(device)
        rows = int(counts.sum())
        self.positions = torch.cat([torch.arange(n - 1, n + k) for n, k in zip(lens, num_nodes)]).to(device)
        self.window, self.soft_cap, self.sinks = window, soft_cap, random(num_heads) if has_sinks else None
        self.page, pages = page, -(-(max(lens) + nodes) // page)
        total = num_reqs * pages + 3
        self.block_table = torch.randperm(total, generator=generator)[: num_reqs * pages].view(num_reqs, pages)
        self.block_table = self.block_table.int().to(device)
        self.cache_shape = (total, num_kv_heads, page, 2 * head_size)
        cache = random(*self.cache_shape)
        self.keys, self.values = cache[..., :head_size], cache[..., head_size:]
        qkv = random(rows, (num_heads + 2 * num_kv_heads) * head_size)
        self.query, self.key, self.value = (
            part.view(rows, -1, head_size)
            for part in qkv.split([num_heads * head_size, *[num_kv_heads * head_size] * 2], dim=1)
        )

    def pad(self, num_reqs, num_rows):
        """As vLLM pads for a graph: requests without rows, and rows of nobody behind all."""

        def behind(tensor, n, value):
            return torch.cat([tensor, tensor.new_full((n, *tensor.shape[1:]), value)])

        self.first_rows = behind(self.first_rows, num_reqs, int(self.first_rows[-1]))
        self.block_table = behind(self.block_table, num_reqs, 0)
        self.query, self.key, self.value = (behind(t, num_rows, torch.nan) for t in (self.query, self.key, self.value))

    def lay_out(self):
        num_reqs, nodes = len(self.block_table), len(self.depths)
        prefix_lens = torch.full((num_reqs,), -7, dtype=torch.int32, device=self.query.device)
        ancestry = torch.full((num_reqs, nodes + 1, self.gamma), -7, dtype=torch.int32, device=self.query.device)
        positions = self.positions.clone()
        lay_out_trees(self.trees, self.states, self.first_rows, positions, prefix_lens, ancestry)
        return positions, prefix_lens, ancestry

    def path(self, request, row):
        rows = []
        while row:
            rows.insert(0, row)
            row = int(self.trees.parents[self.states[request], row - 1])
        return rows

    def run(self, splits=2):
        _, prefix_lens, ancestry = self.lay_out()
        rows, num_heads, head_size = self.query.shape
        device, max_rows = self.query.device, len(self.depths) + 1
        scale, upcast = head_size**-0.5, device.type == "cpu"
        prefix = torch.full((splits, rows, num_heads, head_size), torch.nan, device=device)
        lse = torch.full((splits, rows, num_heads), torch.nan, device=device)
        plan = torch.zeros(1, dtype=torch.int32, device=device)
        plan_splits(prefix_lens, plan, num_kv_heads=self.keys.shape[1], programs=16, window=self.window)
        depths = torch.tensor([0, *self.depths], dtype=torch.int32, device=device)
        prefix_attention(
            self.query, self.keys, self.values, self.block_table, self.first_rows, prefix_lens, plan, prefix, lse,
            scale=scale, max_rows=max_rows, upcast=upcast, window=self.window, depths=depths, soft_cap=self.soft_cap,
        )  # fmt: skip
        out = torch.full_like(self.query, torch.nan, memory_format=torch.contiguous_format)
        tree_attention(
            self.query, self.key, self.value, self.first_rows, ancestry, prefix, lse, out, scale=scale, upcast=upcast,
            soft_cap=self.soft_cap, sinks=self.sinks,
        )  # fmt: skip
        return out

    def expected(self):
        out = torch.empty(self.query.shape)
        for request, n in enumerate(self.lens):
            first, pages = int(self.first_rows[request]), self.block_table[request].long()
            prefix = [cache[pages].transpose(1, 2).flatten(0, 1)[:n] for cache in (self.keys, self.values)]
            for row in range(self.num_nodes[request] + 1):
                own = [new[[first + at for at in self.path(request, row)]] for new in (self.key, self.value)]
                keys, values = (torch.cat(parts) for parts in zip(prefix, own))
                out[first + row] = dense_attention(
                    self.query[first + row], keys, values, self.head_size**-0.5, self.window, self.soft_cap, self.sinks
                )
        return out

    def check(self, splits=2):
        tolerance = TOLERANCE[self.query.dtype]
        torch.testing.assert_close(self.run(splits).float().cpu(), self.expected(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("gamma", "candidates"), [(1, 1), (4, 1), (1, 4), (3, 2), (4, 4), (5, 3)])
def test_equals_dense_attention_over_each_nodes_path(device, gamma, candidates):
    most = gamma * candidates
    TreeBatch(device, [70, 1, 33, 16], [most, most, 0, most - 1], gamma, candidates).check()


def test_padding_changes_nothing_and_is_not_written(device):
    batch = TreeBatch(device, [70, 1, 33], [12, 12, 12], 3, 4)
    plain = batch.run()
    batch.pad(2, 26)
    padded = batch.run()
    assert torch.equal(padded[: len(plain)], plain)
    assert padded[len(plain) :].isnan().all()


def test_more_nodes_than_a_tile_of_keys_and_more_queries_than_a_tile(device):
    TreeBatch(device, [20, 3], [64, 40], gamma=8, candidates=8, heads=(4, 1), head_size=64).check()


@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (8, 1)])
@pytest.mark.parametrize("head_size", [16, 48, 128])
def test_heads(device, heads, head_size):
    TreeBatch(device, [20, 3], [9, 9], heads=heads, head_size=head_size).check()


@pytest.mark.parametrize("splits", [1, 3, 32])
def test_splits_of_the_prefix_merge_to_the_same(device, splits):
    TreeBatch(device, [200, 1, 64], [9, 9, 9]).check(splits)


@pytest.mark.parametrize("window", [4, 17, 64, 65, 128, 500])
def test_a_window_ends_so_many_tokens_before_each_node(device, window):
    TreeBatch(device, [300, 1, 64, 65, 16], [9] * 5, window=window).check()


def test_a_soft_cap_and_sinks(device):
    TreeBatch(device, [70, 1, 33], [9, 9, 4], soft_cap=1.5).check()
    TreeBatch(device, [70, 1, 33], [9, 9, 4], has_sinks=True).check()
    TreeBatch(device, [70, 1, 33], [9, 9, 4], window=20, soft_cap=1.5, has_sinks=True).check(splits=3)


def test_bfloat16(device):
    TreeBatch(device, [70, 33], [9, 9], dtype=torch.bfloat16).check()


@pytest.mark.parametrize(("gamma", "candidates"), [(1, 1), (4, 1), (1, 4), (3, 2), (4, 4)])
def test_positions_are_the_roots_plus_the_depth_and_prefixes_end_with_the_root(device, gamma, candidates):
    most = gamma * candidates
    batch = TreeBatch(device, [70, 1, 33], [most, most - 1, 0], gamma, candidates)
    positions, prefix_lens, ancestry = batch.lay_out()
    assert prefix_lens.tolist() == batch.lens
    for request, n in enumerate(batch.lens):
        first = int(batch.first_rows[request])
        for row in range(batch.num_nodes[request] + 1):
            path = batch.path(request, row)
            assert positions[first + row] == n - 1 + len(path)
            assert ancestry[request, row].tolist() == path + [-1] * (gamma - len(path))


def test_a_chain_keeps_a_texts_positions(device):
    batch = TreeBatch(device, [9, 4], [4, 2], gamma=4, candidates=1)
    assert torch.equal(batch.lay_out()[0], batch.positions)


def test_padding_has_no_prefix(device):
    batch = TreeBatch(device, [9, 4], [3, 3], gamma=3, candidates=1)
    batch.pad(2, 0)
    _, prefix_lens, _ = batch.lay_out()
    assert prefix_lens.tolist() == [9, 4, 0, 0]
