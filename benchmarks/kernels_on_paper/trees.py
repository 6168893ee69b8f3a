"""`Trees` makes the target's side of several candidates as the engine does, on any device (`pieces` has the rest)."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.kernels_on_paper.pieces import COMPUTE_UNITS, WINDOW, Shape, attention_layer

_PAGES = 8
"""Pages that block tables name in turn: more than a tile of keys spans."""
_LARGEST_PADDED = 512


class Trees:
    """Layout, attention of one layer, and the move of what was kept.

    Args:
        shape: of the target; gamma and candidates are the trees'.
        prefix_len: tokens of every request up to its newest.
        flash: prefixes are read by FlashAttention 3, for which `pieces.standing_in_for_flash_attention` stands in.
    """

    def __init__(
        self, shape: Shape, device: torch.device, prefix_len: int = 1, num_layers: int = 2, *, flash: bool = False
    ) -> None:
        from vllm_mtad.runners.v2 import shared_prefix
        from vllm_mtad.runners.v2.tree_verification import TreeVerification
        from vllm_mtad.runners.v2.trees import DraftTrees

        self.shape, self.device, self._prefix_len = shape, device, prefix_len
        self.trees = DraftTrees.allocate(shape.max_num_reqs, shape.gamma, shape.num_candidates, device)
        pages = torch.zeros(
            num_layers, _PAGES, shape.num_kv_heads, shape.page_size, 2 * shape.head_size,
            dtype=shape.dtype, device=device,
        )  # fmt: skip
        self._layers = {f"layer {i}": attention_layer(shape, device) for i in range(num_layers)}
        for layer, cache in zip(self._layers.values(), pages):
            layer.kv_cache, layer.impl.vllm_flash_attn_version = cache, 3 if flash else 2
        with mock.patch.object(shared_prefix, "programs_of", return_value=2 * COMPUTE_UNITS):
            self._verification = TreeVerification(
                self.trees, self._layers, shape.max_num_reqs, WINDOW, _LARGEST_PADDED, shape.dtype, device
            )
        group = SimpleNamespace(
            kv_cache_spec=SimpleNamespace(block_size=shape.page_size), layer_names=list(self._layers)
        )
        # It would read figures at times of its own.
        self._verification._log = SimpleNamespace(step=lambda: None)  # type: ignore[assignment]
        self._verification.set_attn(SimpleNamespace(kv_cache_groups=[group]))
        with mock.patch.object(torch.Tensor, "data_ptr", lambda self: self.storage_offset() * self.itemsize):
            self._verification.use_kv_caches()

    @property
    def num_nodes(self) -> int:
        """The nodes of a whole tree."""
        return self.trees.log_q.shape[1]

    def keep_another(self) -> None:
        """Every request keeps a whole candidate that was not the chosen one."""
        gamma, others = self.shape.gamma, self.shape.num_candidates - 1
        rows = 1 + gamma + torch.arange(gamma) * others  # the first other of each depth
        self.trees.parents[:, rows - 1] = torch.cat([torch.zeros(1), rows[:-1]]).int().to(self.device)
        self.trees.kept.fill_(int(rows[-1]))

    def batch(self, drafts: Sequence[int], num_reqs_padded: int | None = None) -> Any:
        """What vLLM's InputBatch says of requests with so many nodes each (those without any last), padded for a graph
        or not; and their block table."""
        num_reqs, device = len(drafts), self.device
        ends = np.cumsum(np.array([0, *drafts]) + np.minimum(np.arange(num_reqs + 1), 1))
        starts = np.pad(ends, (0, (num_reqs_padded or num_reqs) - num_reqs), "edge").astype(np.int32)
        pages = torch.arange(WINDOW // self.shape.page_size, dtype=torch.int32, device=device) % _PAGES
        offsets = torch.cat([torch.arange(n + 1, device=device) for n in drafts])
        return SimpleNamespace(
            num_reqs=num_reqs,
            num_reqs_after_padding=len(starts) - 1,
            idx_mapping=torch.zeros(num_reqs, dtype=torch.int64, device=device),
            query_start_loc=torch.from_numpy(starts).to(device),
            query_start_loc_np=starts,
            positions=self._prefix_len - 1 + offsets,
            input_ids=torch.zeros(len(offsets), dtype=torch.int32, device=device),
            num_scheduled_tokens=np.array(drafts) + 1,
            num_draft_tokens_per_req=np.array(drafts),
            block_table=pages.repeat(len(starts) - 1, 1),
        )

    def lay_out(self, batch: Any) -> Any:
        """Lay out a batch's trees and plan the attention; returns a layer's metadata."""
        backends = dict.fromkeys(self._layers, "of the backend")
        return self._verification.metadata_of(backends, batch, [batch.block_table])["layer 0"]

    def projections(self, rows: int) -> list[torch.Tensor]:
        """Query, key, value and output of one layer, parts of one tensor as a projection's are."""
        shape = self.shape
        heads = (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
        qkv = torch.zeros(rows, sum(heads) * shape.head_size, dtype=shape.dtype, device=self.device)
        query, key, value = qkv.split([n * shape.head_size for n in heads], dim=1)
        return [query, key, value, torch.empty(query.shape, dtype=shape.dtype, device=self.device)]

    def attend(self, metadata: Any, projections: list[torch.Tensor]) -> None:
        query, key, value, out = projections
        layer = self._layers["layer 0"]
        layer.impl.forward(layer, query, key, value, layer.kv_cache, metadata, out)

    def move(self, batch: Any) -> None:
        self._verification.finish(batch)

    def verify(self, drafts: Sequence[int], num_reqs_padded: int | None = None) -> None:
        """Lay out, attend and move."""
        batch = self.batch(drafts, num_reqs_padded)
        self.attend(self.lay_out(batch), self.projections(len(batch.positions)))
        self.move(batch)
