"""`BeamCache` holds beams in the paged KV cache: rows that share the request's full blocks and own a private tail.

Whole blocks are copied, never single slots: a backend may pack the inside of a block as it likes.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from vllm_mtad.runners.v1.scratch import ScratchPlan


class BeamCache:
    """The KV rows of one group of requests at a time.

    Args:
        plan: how much scratch there is.
        kv_caches: the draft layers' KV, each `[num_blocks, ...]`.
        max_blocks: columns of vLLM's block table.
        block_size: tokens of a block.
    """

    def __init__(self, plan: ScratchPlan, kv_caches: list[torch.Tensor], max_blocks: int, block_size: int) -> None:
        device, rows = kv_caches[0].device, plan.requests_in_flight * plan.beam_width
        num_blocks = kv_caches[0].shape[0]
        self._kv = as_one(kv_caches)
        self._block_size, self._tail = block_size, plan.blocks_per_beam
        self._scratch = plan.scratch_of(num_blocks, rows, self._tail, device)
        self._tables = torch.zeros(rows, max_blocks + self._tail, dtype=torch.int32, device=device)
        self._columns = torch.arange(self._tail, device=device)

    def start(self, block_table: torch.Tensor, lengths: torch.Tensor, width: int, max_length: int) -> torch.Tensor:
        """Give each request `width` beams; returns their block table, int32 `[num_reqs * width, columns]`.

        Args:
            block_table: `[num_reqs, max_blocks]` of the requests.
            lengths: int64 `[num_reqs]`, tokens of each request that have KV.
            max_length: at least the largest of `lengths`.
        """
        num_reqs, shared = len(lengths), max_length // self._block_size + 1
        shared = min(shared, block_table.shape[1])
        rows = num_reqs * width
        self._rows, self._width = rows, width
        table = self._tables[:rows, : shared + self._tail]
        by_request = table.view(num_reqs, width, -1) if table.is_contiguous() else table.unflatten(0, (-1, width))
        by_request[:, :, :shared] = block_table[:, None, :shared]
        first_private = lengths // self._block_size
        partial = by_request[:, 0].gather(1, first_private.clamp(max=shared - 1)[:, None]).long()
        private = (first_private[:, None, None] + self._columns).expand(-1, width, -1)
        by_request.scatter_(2, private, self._scratch[:rows].view(num_reqs, width, -1).int())
        copy_blocks(self._kv, partial.expand(-1, width).reshape(-1), self._scratch[:rows, 0])
        self._table = table
        return table

    def slots(self, positions: torch.Tensor) -> torch.Tensor:
        """`[rows]` int64 KV slots of one position per row."""
        blocks = self._table.gather(1, (positions // self._block_size)[:, None])[:, 0].long()
        return blocks * self._block_size + positions % self._block_size

    def follow(self, parents: torch.Tensor) -> None:
        """Each beam takes over the tail of the beam that it continues: `parents` int64 `[num_reqs, width]`."""
        own = self._scratch[: self._rows]
        by_request = own.view(-1, self._width, self._tail)
        source = by_request.gather(1, parents[:, :, None].expand(-1, -1, self._tail))
        copy_blocks(self._kv, source.reshape(-1), own.reshape(-1))


def copy_blocks(kv_caches: list[torch.Tensor], source: torch.Tensor, destination: torch.Tensor) -> None:
    """Whole blocks, in caches as `as_one` gives them. Source and destination may overlap."""
    for kv in kv_caches:  # gathered before it is written
        kv.index_copy_(1, destination, kv.index_select(1, source))


def as_one(kv_caches: list[torch.Tensor]) -> list[torch.Tensor]:
    """The layers as one `[layers, num_blocks, ...]` view where they lie evenly in one allocation.

    vLLM keeps all layers in one backing buffer, so a copy is then two launches instead of two a layer.
    """
    kv_caches = sorted(kv_caches, key=lambda kv: kv.storage_offset())
    first = kv_caches[0]
    offsets = [kv.storage_offset() for kv in kv_caches]
    steps = {b - a for a, b in pairwise(offsets)}
    same_buffer = all(
        kv.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and kv.shape == first.shape
        and kv.stride() == first.stride()
        for kv in kv_caches
    )
    if not same_buffer or len(steps) > 1:
        return [kv[None] for kv in kv_caches]
    step = steps.pop() if steps else 0
    return [torch.as_strided(first, (len(kv_caches), *first.shape), (step, *first.stride()), offsets[0])]
