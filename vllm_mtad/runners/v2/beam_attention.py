"""On a draft layer, beams attend to a paged prefix that a request's beams share, and to a dense suffix each.

A beam step neither writes the paged KV cache nor takes blocks. A prefix is read once for all beams
(`shared_prefix`); one more launch a layer adds a beam's own tokens and merges the two by log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vllm_mtad.runners.v2.attention_stand_in import AttentionStandIn
from vllm_mtad.runners.v2.kernels.suffix_attention import suffix_attention
from vllm_mtad.runners.v2.shared_prefix import Prefixes, PrefixReader


@dataclass(frozen=True)
class BeamAttentionMetadata:
    """In place of a backend's metadata, for a pass over beams that have `depth` tokens each and feed their last.

    `ancestry`: see `BeamLevels`. `prefix_plans`: what each `PrefixReader` plans for these prefixes.
    """

    depth: int
    ancestry: torch.Tensor
    prefixes: Prefixes
    prefix_plans: Mapping[PrefixReader, torch.Tensor | None]


class BeamAttention(AttentionStandIn):
    """The attention of beam steps, on a layer of the draft model.

    Args:
        layer: the draft model's attention layer.
        max_num_reqs, beam_width, max_tokens: the size of the scratch; `max_tokens` is gamma - 1, for the last token
            of a draft is never fed.
        prefix_reader: shared by all layers of this shape.
        dtype, device: of the draft model.
    """

    metadata = BeamAttentionMetadata

    def __init__(
        self,
        layer: Any,
        max_num_reqs: int,
        beam_width: int,
        max_tokens: int,
        prefix_reader: PrefixReader,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(layer, device)
        self._prefix_reader = prefix_reader
        shape = (max_num_reqs, max_tokens, beam_width, self._impl.num_kv_heads, self._impl.head_size)
        self._key_scratch = torch.zeros(shape, dtype=dtype, device=device)
        self._value_scratch = torch.zeros_like(self._key_scratch)

    @property
    def scratch_bytes(self) -> int:
        return 2 * self._key_scratch.nbytes

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        metadata: BeamAttentionMetadata,
        out: torch.Tensor,
    ) -> None:
        """Rows are beams, `num_reqs * beam_width` of them, beam-major per request."""
        plan = metadata.prefix_plans[self._prefix_reader]
        prefix, lse = self._prefix_reader.read(query, keys, values, metadata.prefixes, plan)
        suffix_attention(
            query,
            key,
            value,
            self._key_scratch,
            self._value_scratch,
            metadata.ancestry,
            prefix,
            lse,
            out,
            num_older=metadata.depth - 1,
            scale=self._impl.scale,
            upcast=self._upcast,
            soft_cap=self._soft_cap,
            sinks=self._sinks,
        )
