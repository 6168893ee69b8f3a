"""Attention of beams on a draft layer: a paged prefix shared by all beams of a request, and a dense suffix each.

A beam step neither writes the paged KV cache nor takes blocks. The prefix is read by FlashAttention 3, which returns
the log-sum-exp that the merge needs, or else by a kernel of ours. Per layer and step: two launches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from vllm import envs
from vllm.triton_utils import triton
from vllm.utils.platform_utils import num_compute_units
from vllm.utils.torch_utils import canonicalize_singleton_dim_strides, is_quantized_kv_cache

from vllm_mtad.runners.v2.kernels.prefix_attention import prefix_attention
from vllm_mtad.runners.v2.kernels.suffix_attention import suffix_attention

MAX_SPLITS = 16
_PROGRAMS_PER_UNIT = 2


@dataclass(frozen=True)
class BeamAttentionMetadata:
    """In place of a backend's metadata, for a step that feeds each beam's token of `depth`.

    `prefix_lens`: int32 `[num_reqs]`, tokens with KV in the paged cache, 0 where padded. `block_table`: int32
    `[num_reqs, max_pages]`. `query_start_loc`: int32 `[num_reqs + 1]`, multiples of the beam width. `ancestry`: see
    `BeamHistory`. `max_prefix_len`: a bound on `prefix_lens`.
    """

    depth: int
    prefix_lens: torch.Tensor
    block_table: torch.Tensor
    query_start_loc: torch.Tensor
    ancestry: torch.Tensor
    max_prefix_len: int


def _plain_layout(kv_cache: torch.Tensor, head_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return kv_cache[..., :head_size], kv_cache[..., head_size:]


def _cpu_layout(kv_cache: torch.Tensor, head_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """vLLM's CPU engine keeps K and V of a page apart, and K with the dimension first."""
    pages, heads, page, _ = kv_cache.shape
    keys, values = kv_cache.view(pages, heads, 2 * page, head_size).chunk(2, dim=2)
    packed = keys.as_strided((pages, heads, page, head_size), (*keys.stride()[:2], 1, page), keys.storage_offset())
    return packed, values


# Attention backend -> views of its cache as keys and values, each [num_pages, num_kv_heads, page, head_size].
CACHE_LAYOUTS: dict[str, Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]] = {
    "FLASH_ATTN": _plain_layout,
    "TRITON_ATTN": _plain_layout,
    "CPU_ATTN": _cpu_layout,
}


def _splits(num_reqs: int, num_kv_heads: int, programs: int) -> int:
    return max(1, min(MAX_SPLITS, triton.cdiv(programs, num_reqs * num_kv_heads)))


@dataclass(frozen=True)
class PrefixWorkspace:
    """Outputs of the prefix's attention, shared by all layers: `out` float32 `[splits * rows * num_heads * head_size]`,
    `lse` float32 `[splits * rows * num_heads]`, flat, for the largest batch and the most splits."""

    out: torch.Tensor
    lse: torch.Tensor
    programs: int
    """Programs to aim at: fewer leave the device idle."""

    @classmethod
    def allocate(
        cls, layers: list[Any], max_num_reqs: int, beam_width: int, device: torch.device, programs: int | None = None
    ) -> PrefixWorkspace:
        """For these attention layers; of those that FlashAttention reads there is nothing to hold."""
        if programs is None:
            programs = _PROGRAMS_PER_UNIT * num_compute_units(device.index or 0) if device.type == "cuda" else 2
        lse_size = out_size = 0
        for impl in (layer.impl for layer in layers if not _uses_flash(layer)):
            most = max(n * _splits(n, impl.num_kv_heads, programs) for n in range(1, max_num_reqs + 1))
            lse_size = max(lse_size, most * beam_width * impl.num_heads)
            out_size = max(out_size, most * beam_width * impl.num_heads * impl.head_size)
        return cls(torch.empty(out_size, device=device), torch.empty(lse_size, device=device), programs)

    def splits(self, num_reqs: int, num_kv_heads: int) -> int:
        """Into how many parts the prefixes are split, for the device to be busy."""
        return _splits(num_reqs, num_kv_heads, self.programs)

    def views(self, query: torch.Tensor, num_reqs: int, num_kv_heads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(`[splits, rows, num_heads, head_size]`, `[splits, rows, num_heads]`) for one batch."""
        rows, num_heads, head_size = query.shape
        splits = self.splits(num_reqs, num_kv_heads)
        lse = self.lse[: splits * rows * num_heads].view(splits, rows, num_heads)
        return self.out[: lse.numel() * head_size].view(splits, rows, num_heads, head_size), lse


def _unsupported(layer: Any) -> str | None:
    """What the layer does that the merge of prefix and suffix would get wrong, or None.

    The configuration was checked by what models say of themselves (`config.checks`); this asks the layer.
    """
    impl, backend = layer.impl, layer.attn_backend.get_name()
    found = {
        f"attention backend {backend} (accepted: {', '.join(CACHE_LAYOUTS)}; speculative_config.attention_backend)": (
            backend not in CACHE_LAYOUTS
        ),
        "ALiBi": getattr(impl, "alibi_slopes", None) is not None,
        "attention sinks": getattr(impl, "sinks", None) is not None,
        "logit soft-cap": bool(getattr(impl, "logits_soft_cap", None)),
        "sliding window": getattr(impl, "sliding_window", None) not in (None, -1, (-1, -1)),
        "KV sharing between layers": getattr(layer, "kv_sharing_target_layer_name", None) is not None,
        "quantized KV cache": is_quantized_kv_cache(getattr(layer, "kv_cache_dtype", "auto")),
        "head size of values": getattr(layer, "head_size_v", impl.head_size) != impl.head_size,
    }
    return next((feature for feature, is_there in found.items() if is_there), None)


def check_page_layout(layer: Any) -> None:
    """vLLM's CPU engine packs pages as its instructions like them; it decides when the KV cache is set up."""
    if (isa := getattr(layer, "isa", "vec")) != "vec":
        raise ValueError(
            f"The draft's KV cache is packed for {isa!r} on this CPU, which speculative method 'mtad' cannot read on"
            " Model Runner V2: use dtype='float32' and a block_size that is a multiple of 32, or Model Runner V1."
        )


def _uses_flash(layer: Any) -> bool:
    """FlashAttention 2 would read the prefix once a query head; 3 packs a KV head's queries into one tile."""
    return layer.attn_backend.get_name() == "FLASH_ATTN" and layer.impl.vllm_flash_attn_version == 3


class BeamAttention:
    """Stands before a draft layer's attention: beam steps come here, everything else goes on to the backend.

    Args:
        layer: the draft model's attention layer; its implementation's `forward` is replaced.
        max_num_reqs, beam_width, max_depth: the size of the scratch; `max_depth` is gamma - 1, for the last token of a
            draft is never fed.
        workspace: shared by all layers.
        dtype: of the draft model.
    """

    def __init__(
        self,
        layer: Any,
        max_num_reqs: int,
        beam_width: int,
        max_depth: int,
        workspace: PrefixWorkspace,
        dtype: torch.dtype,
    ) -> None:
        self._impl, self._workspace, self._beam_width = layer.impl, workspace, beam_width
        self._backend_forward = layer.impl.forward
        if feature := _unsupported(layer):
            raise ValueError(f"The draft's {feature} cannot be used with speculative method 'mtad'.")
        self._layout = CACHE_LAYOUTS[layer.attn_backend.get_name()]
        self._uses_flash = _uses_flash(layer)
        # The interpreter multiplies bfloat16 wrongly, and a CPU has no other Triton that we could test.
        self._upcast = workspace.out.device.type == "cpu"
        shape = (max_num_reqs, max_depth, beam_width, self._impl.num_kv_heads, self._impl.head_size)
        self._key_scratch = torch.zeros(shape, dtype=dtype, device=workspace.out.device)
        self._value_scratch = torch.zeros_like(self._key_scratch)
        layer.impl.forward = self.forward
        # Compilation may fuse a quantization of the output into the backend's kernel; ours have none.
        layer.impl.fused_output_quant_supported = lambda quant_key: False

    @property
    def scratch_bytes(self) -> int:
        return 2 * self._key_scratch.nbytes

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: Any,
        output: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """AttentionImpl.forward; query `[rows, num_heads, head_size]`, key and value `[rows, num_kv_heads, head_size]`
        with `rows = num_reqs * beam_width`, beam-major per request, where the metadata is a beam step's."""
        if not isinstance(attn_metadata, BeamAttentionMetadata):
            return self._backend_forward(layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs)
        impl = self._impl
        query, out = (t.view(-1, impl.num_heads, impl.head_size) for t in (query, output))
        key, value = (t.view(-1, impl.num_kv_heads, impl.head_size) for t in (key, value))
        prefix, lse = (self._flash_prefix if self._uses_flash else self._triton_prefix)(query, kv_cache, attn_metadata)
        suffix_attention(
            query,
            key,
            value,
            self._key_scratch,
            self._value_scratch,
            attn_metadata.ancestry,
            prefix,
            lse,
            out,
            depth=attn_metadata.depth,
            scale=impl.scale,
            upcast=self._upcast,
        )
        return output

    def _triton_prefix(
        self, query: torch.Tensor, kv_cache: torch.Tensor, metadata: BeamAttentionMetadata
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self._layout(kv_cache, self._impl.head_size)
        out, lse = self._workspace.views(query, len(metadata.prefix_lens), self._impl.num_kv_heads)
        prefix_attention(
            query,
            keys,
            values,
            metadata.block_table,
            metadata.prefix_lens,
            out,
            lse,
            scale=self._impl.scale,
            beam_width=self._beam_width,
            upcast=self._upcast,
        )
        return out, lse

    def _flash_prefix(
        self, query: torch.Tensor, kv_cache: torch.Tensor, metadata: BeamAttentionMetadata
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As FlashAttention's decode context parallelism reads a context: paged, not causal, with its log-sum-exp."""
        from vllm.vllm_flash_attn import flash_attn_varlen_func

        # [pages, page, heads, dim], with strides that its loads accept when there is one KV head.
        keys, values = (
            canonicalize_singleton_dim_strides(part.transpose(1, 2))
            for part in self._layout(kv_cache, self._impl.head_size)
        )
        num_reqs = len(metadata.prefix_lens)
        out, lse = flash_attn_varlen_func(
            q=query,
            k=keys,
            v=values,
            cu_seqlens_q=metadata.query_start_loc,
            max_seqlen_q=self._beam_width,
            seqused_k=metadata.prefix_lens,
            max_seqlen_k=metadata.max_prefix_len,
            softmax_scale=self._impl.scale,
            causal=False,
            block_table=metadata.block_table,
            return_softmax_lse=True,
            # Fixed by the batch: left to itself it takes as many as one request of max_model_len could use.
            num_splits=1 if envs.VLLM_BATCH_INVARIANT else self._workspace.splits(num_reqs, self._impl.num_kv_heads),
            fa_version=3,
        )
        return out[None], lse.transpose(0, 1)[None]
