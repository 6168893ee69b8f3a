"""The kept candidates' tokens and KV, where a text's would be."""

import pytest
import torch

from tests.v2.kernels.test_tree_attention import TreeBatch
from vllm_mtad.runners.v2.kernels.kept_path import move_kept_paths


def moved(batch, kept, layers=3):
    """(input ids, caches) before and after; request r kept its row `kept[r]`."""
    generator = torch.Generator().manual_seed(1)
    device, rows = batch.query.device, len(batch.positions)
    # vLLM's layers take turns in one allocation.
    everything = torch.randn(batch.cache_shape[0], layers, *batch.cache_shape[1:], generator=generator)
    caches = everything.to(device, batch.query.dtype).unbind(1)
    pages = [(cache[..., : batch.head_size], cache[..., batch.head_size :]) for cache in caches]
    offsets = [[part.storage_offset() for part in parts] for parts in pages]
    ids = torch.randint(0, 1000, (rows,), generator=generator).int().to(device)
    before = ids.clone(), [cache.clone() for cache in caches]
    batch.trees.kept.fill_(99)
    batch.trees.kept[batch.states] = torch.tensor(kept, dtype=torch.int32, device=device)
    positions = batch.lay_out()[0]
    move_kept_paths(
        batch.trees,
        batch.states,
        batch.first_rows,
        positions,
        ids,
        batch.block_table,
        *pages[0],
        torch.tensor(offsets, device=device),
    )
    return before, (ids, caches)


def expected(batch, kept, before):
    ids, caches = before[0].clone(), [cache.clone() for cache in before[1]]
    for request, row in enumerate(kept):
        first, root = int(batch.first_rows[request]), batch.lens[request] - 1
        for depth, source in enumerate(batch.path(request, row), start=1):
            ids[first + depth] = before[0][first + source]
            places = [
                (batch.block_table[request, (root + at) // batch.page].long(), (root + at) % batch.page)
                for at in (source, depth)
            ]
            for new, old in zip(caches, before[1]):
                new[places[1][0], :, places[1][1]] = old[places[0][0], :, places[0][1]]
    return ids, caches


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("gamma", "candidates"), [(1, 2), (3, 3), (4, 4), (5, 2)])
def test_the_kept_path_stands_where_a_text_would(device, gamma, candidates, dtype):
    most = gamma * candidates
    batch = TreeBatch(device, [70, 15, 33, 16, 9], [most] * 5, gamma, candidates, dtype=dtype)
    for kept in ([most, 0, gamma, gamma + 1, most - 1], [most - 1, most, gamma + 1, 1, most]):
        before, after = moved(batch, kept)
        ids, caches = expected(batch, kept, before)
        assert torch.equal(after[0], ids)
        for got, wanted in zip(after[1], caches):
            assert torch.equal(got, wanted)
        assert not torch.equal(after[0], before[0])


def test_nothing_moves_where_the_chosen_draft_was_kept(device):
    batch = TreeBatch(device, [70, 15], [12, 12], 4, 3)
    before, after = moved(batch, [0, 3])
    assert torch.equal(before[0], after[0])
    assert all(torch.equal(old, new) for old, new in zip(before[1], after[1]))
