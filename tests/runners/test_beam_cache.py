"""Beams in the paged KV cache, against a plain copy of each beam's own sequence."""

import pytest
import torch

from vllm_mtad.runners.v1.beam_cache import BeamCache, as_one
from vllm_mtad.runners.v1.scratch import ScratchPlan

BLOCK, NUM_LAYERS, MAX_BLOCKS = 4, 3, 6


def plan(requests, width, gamma):
    tail = -(-(BLOCK - 1 + gamma - 1) // BLOCK)
    return ScratchPlan(requests, width, tail, MAX_BLOCKS)


def kv_caches(num_blocks, layout):
    """Layers `[num_blocks, heads, block, channels]`, as vLLM lays them out in one buffer, or each in its own."""
    if layout == "separate":
        return [torch.zeros(num_blocks, 1, BLOCK, 2) for _ in range(NUM_LAYERS)]
    if layout == "layers outermost":
        return list(torch.zeros(NUM_LAYERS, num_blocks, 1, BLOCK, 2).unbind(0))
    return list(torch.zeros(num_blocks, NUM_LAYERS, 1, BLOCK, 2).unbind(1))


def write(caches, slots, values):
    for layer, kv in enumerate(caches):
        for slot, value in zip(slots.tolist(), values.tolist()):
            kv[slot // BLOCK, :, slot % BLOCK] = value + 1000 * layer


def read(kv, table_row, length):
    return [kv[table_row[i // BLOCK], 0, i % BLOCK, 0].item() for i in range(length)]


@pytest.mark.parametrize("layout", ["separate", "layers outermost", "blocks outermost"])
@pytest.mark.parametrize("lengths", [[1, 4, 7], [8, 3, 5], [16, 15, 13]])
def test_each_beam_reads_its_own_history(layout, lengths):
    gamma, width, num_reqs = 5, 2, 3
    scratch = plan(num_reqs, width, gamma)
    caches = kv_caches(num_reqs * MAX_BLOCKS + 1 + scratch.num_blocks, layout)
    block_table = (torch.arange(num_reqs * MAX_BLOCKS) + 1).view(num_reqs, MAX_BLOCKS).int()
    history = {}
    for request, length in enumerate(lengths):
        slots = block_table[request].long()[torch.arange(length) // BLOCK] * BLOCK + torch.arange(length) % BLOCK
        tokens = torch.arange(length) + 100 * (request + 1)
        write(caches, slots, tokens)
        history[request] = [list(map(float, tokens.tolist()))] * width
    before = [kv[: num_reqs * MAX_BLOCKS + 1].clone() for kv in caches]

    cache = BeamCache(scratch, caches, MAX_BLOCKS, BLOCK)
    table = cache.start(block_table, torch.tensor(lengths), width, max(lengths))
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor(lengths).repeat_interleave(width)
    for depth in range(1, gamma):
        if depth > 1:
            parents = torch.randint(0, width, (num_reqs, width), generator=generator)
            cache.follow(parents)
            history = {r: [history[r][p] for p in parents[r].tolist()] for r in history}
        new = torch.arange(num_reqs * width) + 10_000 * depth
        write(caches, cache.slots(rows + depth - 1), new)
        history = {r: [[*h, float(new[r * width + b])] for b, h in enumerate(history[r])] for r in history}
        for request in range(num_reqs):
            for beam in range(width):
                row = table[request * width + beam].tolist()
                for layer, kv in enumerate(caches):
                    expected = [v + 1000 * layer for v in history[request][beam]]
                    assert read(kv, row, lengths[request] + depth) == expected
    for kv, untouched in zip(caches, before):
        assert torch.equal(kv[: len(untouched)], untouched), "a request's own blocks were written"


def test_layers_in_one_buffer_become_one_view():
    assert len(as_one(kv_caches(4, "layers outermost"))) == 1
    assert len(as_one(kv_caches(4, "layers outermost")[::-1])) == 1
    assert len(as_one(kv_caches(4, "separate"))) == NUM_LAYERS


def test_scratch_must_leave_room_for_one_request():
    scratch = plan(8, 4, 4)
    assert scratch.num_blocks == 8 * 4 * 2
    assert scratch.blocks_left(scratch.num_blocks + MAX_BLOCKS) == MAX_BLOCKS
    with pytest.raises(ValueError, match="enlarge the KV cache"):
        scratch.blocks_left(scratch.num_blocks + MAX_BLOCKS - 1)
