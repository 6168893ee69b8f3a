"""There are two ways to read the paged prefix that a request's beams share: FlashAttention 3, and a Triton kernel.

Both give the output and the log-sum-exp of the prefix alone, which `suffix_attention` merges with a beam's own tokens.
Both split long prefixes by the lengths of the whole batch, which do not change in a drafting round: how to split is
planned once a round, for all its passes and layers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from vllm import envs
from vllm.utils.math_utils import cdiv
from vllm.utils.platform_utils import num_compute_units
from vllm.utils.torch_utils import canonicalize_singleton_dim_strides

from vllm_mtad.runners.v2.kernels.prefix_attention import TILE_KEYS, plan_splits, prefix_attention
from vllm_mtad.runners.v2.kernels.suffix_attention import MAX_SPLITS

MAX_SPLIT_OUTPUTS = 1 << 17
"""Outputs of all splits, rows and heads together, each `head_size` float32: 33 MB if that is 64."""
_PROGRAMS_PER_UNIT = 2


def max_splits(rows: int, num_heads: int) -> int:
    """Into how many parts a prefix may be split in a batch of so many beams. A large batch keeps the device busy by
    itself, and its parts' outputs would cost more than they save."""
    return max(1, min(MAX_SPLITS, MAX_SPLIT_OUTPUTS // (rows * num_heads)))


def least_tiles(rows: int, group: int) -> int:
    """Tiles of keys that a split has at least: their keys and values, in half precision, weigh as much as the split's
    outputs, which are float32, written and read again.

    Args:
        rows: of a request.
        group: query heads of a KV head.
    """
    return cdiv(2 * rows * group, TILE_KEYS)


def programs_of(device: torch.device) -> int:
    """How many programs a prefix kernel aims at; fewer would leave the device idle."""
    return _PROGRAMS_PER_UNIT * num_compute_units(device.index or 0) if device.type == "cuda" else 4


@dataclass(frozen=True)
class AttentionShape:
    """`window`: tokens that a token sees, itself among them; 0 for all. `soft_cap`: of logits; 0 for none."""

    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    window: int = 0
    soft_cap: float = 0.0

    @classmethod
    def of(cls, impl: Any, max_len: int) -> AttentionShape:
        """The shape of an attention layer's implementation, on this rank, for texts of at most `max_len` tokens."""
        window = getattr(impl, "sliding_window", None) or 0
        if isinstance(window, tuple):  # GPU backends count what is left of a token
            window = window[0] + 1
        soft_cap = getattr(impl, "logits_soft_cap", None) or 0.0
        matters = 0 < window < max_len
        return cls(
            impl.num_heads, impl.num_kv_heads, impl.head_size, impl.scale, window if matters else 0, float(soft_cap)
        )


@dataclass(frozen=True)
class Prefixes:
    """The prefixes of a batch.

    `lens`: int32 `[num_reqs]`, tokens with KV in the paged cache, 0 where padded. `block_table`: int32 `[num_reqs,
    max_pages]`. `query_start_loc`: int32 `[num_reqs + 1]`, where each request's rows begin. `max_len`: a bound on
    `lens`. `page_size`: tokens of a page. `depths`: int32 `[max_rows]`, how far behind a prefix's last token each of a
    request's rows stands.
    """

    lens: torch.Tensor
    block_table: torch.Tensor
    query_start_loc: torch.Tensor
    max_len: int
    page_size: int
    depths: torch.Tensor


class PrefixReader(Protocol):
    keeps_plan: bool
    """Whether `plan` gives the same tensor every time."""

    def plan(self, prefixes: Prefixes) -> torch.Tensor | None:
        """How the prefixes are split, computed on the device; valid for as long as their lengths are."""

    def read(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        prefixes: Prefixes,
        plan: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention to the prefixes alone.

        Args:
            query: `[rows, num_heads, head_size]`: each request's rows, and padding behind them.
            keys, values: `[num_pages, num_kv_heads, page_size, head_size]`.
            plan: what `plan` gave for these prefixes.

        Returns:
            The output `[splits, rows, num_heads, head_size]`, and its log-sum-exp, float32 `[splits, rows, num_heads]`.
            Where the log-sum-exp is infinite a split has no keys, and its output means nothing.
        """


def prefix_readers(
    layers: Sequence[Any], max_rows: int, most_rows: int, max_len: int, dtype: torch.dtype, device: torch.device
) -> list[PrefixReader]:
    """A reader for each of a model's attention layers; layers of one shape share theirs.

    Args:
        max_rows: of a request: its beams, or its newest token and the nodes of its tree.
        most_rows: of a batch, padding included.
        max_len: of a text.

    FlashAttention 2 would read a prefix once a query head, where 3 packs all queries of a KV head into one tile. A
    window is ours to read: FlashAttention would begin it as if a request's rows stood one behind another.
    """

    @functools.cache
    def reader(shape: AttentionShape, uses_flash: bool) -> PrefixReader:
        if uses_flash:
            return FlashPrefixReader(shape, max_rows, dtype)
        return TritonPrefixReader(shape, max_rows, most_rows, device)

    def reader_of(layer: Any) -> PrefixReader:
        shape = AttentionShape.of(layer.impl, max_len)
        has_flash = layer.attn_backend.get_name() == "FLASH_ATTN" and layer.impl.vllm_flash_attn_version == 3
        return reader(shape, has_flash and not shape.window and not shape.soft_cap)

    return [reader_of(layer) for layer in layers]


class FlashPrefixReader:
    """FlashAttention 3 as vLLM's decode context parallelism reads a context: paged, not causal, with its log-sum-exp.

    Two launches a layer: its kernel, and the combination of its splits.
    """

    keeps_plan = False

    def __init__(self, shape: AttentionShape, max_rows: int, dtype: torch.dtype) -> None:
        self._shape, self._max_rows, self._dtype = shape, max_rows, dtype

    def plan(self, prefixes: Prefixes) -> torch.Tensor | None:
        """What vLLM's backend computes once a step, and FlashAttention otherwise at every call."""
        if envs.VLLM_BATCH_INVARIANT:
            return None
        from vllm.vllm_flash_attn import get_scheduler_metadata

        return get_scheduler_metadata(
            batch_size=len(prefixes.lens),
            max_seqlen_q=self._max_rows,
            max_seqlen_k=prefixes.max_len,
            num_heads_q=self._shape.num_heads,
            num_heads_kv=self._shape.num_kv_heads,
            headdim=self._shape.head_size,
            cache_seqlens=prefixes.lens,
            qkv_dtype=self._dtype,
            cu_seqlens_q=prefixes.query_start_loc,
            page_size=prefixes.page_size,
            causal=False,
            num_splits=self._num_splits(len(prefixes.lens)),
        )

    def read(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        prefixes: Prefixes,
        plan: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        from vllm.vllm_flash_attn import flash_attn_varlen_func

        # [pages, page, heads, dim], with strides that its loads accept when there is one KV head.
        keys, values = (canonicalize_singleton_dim_strides(part.transpose(1, 2)) for part in (keys, values))
        out, lse = flash_attn_varlen_func(
            q=query,
            k=keys,
            v=values,
            cu_seqlens_q=prefixes.query_start_loc,
            max_seqlen_q=self._max_rows,
            seqused_k=prefixes.lens,
            max_seqlen_k=prefixes.max_len,
            softmax_scale=self._shape.scale,
            causal=False,
            block_table=prefixes.block_table,
            return_softmax_lse=True,
            scheduler_metadata=plan,
            num_splits=self._num_splits(len(prefixes.lens)),
            fa_version=3,
        )
        return out[None], lse.transpose(0, 1)[None]

    def _num_splits(self, num_reqs: int) -> int:
        """A bound: FlashAttention splits by the lengths of the batch. Without one it holds as many outputs as one
        request of the longest length could use."""
        return 1 if envs.VLLM_BATCH_INVARIANT else max_splits(num_reqs * self._max_rows, self._shape.num_heads)


class TritonPrefixReader:
    """Our kernel, for every other backend whose KV cache can be read. One launch a layer.

    Args:
        most_rows: of a batch, padding included.
        programs: to aim at, if not as many as `programs_of` says.
    """

    keeps_plan = True

    def __init__(
        self,
        shape: AttentionShape,
        max_rows: int,
        most_rows: int,
        device: torch.device,
        programs: int | None = None,
    ) -> None:
        programs = programs or programs_of(device)
        self._shape, self._max_rows, self._programs = shape, max_rows, programs
        self._least_tiles = least_tiles(max_rows, shape.num_heads // shape.num_kv_heads)
        # A plan gives no request more splits with keys than a KV head has programs.
        self._most_splits = max(1, programs // shape.num_kv_heads)
        # The interpreter multiplies bfloat16 wrongly, and a CPU has no other Triton that we could test.
        self._upcast = device.type == "cpu"
        outputs = most_rows * shape.num_heads  # of one split; no batch has more than these, or than the splits' bound
        most = max(outputs, min(MAX_SPLIT_OUTPUTS, outputs * MAX_SPLITS))
        self._lse = torch.empty(most, device=device)
        self._out = torch.empty(most * shape.head_size, device=device)
        self._tiles_per_split = torch.empty(1, dtype=torch.int32, device=device)

    def plan(self, prefixes: Prefixes) -> torch.Tensor:
        """int32 `[1]`, tiles of keys in a split."""
        plan_splits(
            prefixes.lens,
            self._tiles_per_split,
            num_kv_heads=self._shape.num_kv_heads,
            programs=self._programs,
            least_tiles=self._least_tiles,
            window=self._shape.window,
        )
        return self._tiles_per_split

    def read(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        prefixes: Prefixes,
        plan: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert plan is not None
        rows, num_heads, head_size = query.shape
        splits = min(max_splits(rows, num_heads), self._most_splits)
        lse = self._lse[: splits * rows * num_heads].view(splits, rows, num_heads)
        out = self._out[: lse.numel() * head_size].view(splits, rows, num_heads, head_size)
        prefix_attention(
            query,
            keys,
            values,
            prefixes.block_table,
            prefixes.query_start_loc,
            prefixes.lens,
            plan,
            out,
            lse,
            scale=self._shape.scale,
            max_rows=self._max_rows,
            upcast=self._upcast,
            window=self._shape.window,
            depths=prefixes.depths,
            soft_cap=self._shape.soft_cap,
        )
        return out, lse
