"""Attention of beams on a draft layer: a paged prefix shared by all beams of a request, and a dense suffix each.

A beam step neither writes the paged KV cache nor takes blocks. A prefix is read once for all beams
(`shared_prefix`); one more launch a layer adds a beam's own tokens and merges the two by log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from vllm.utils.torch_utils import is_quantized_kv_cache

from vllm_mtad.runners.v2.kernels.suffix_attention import suffix_attention
from vllm_mtad.runners.v2.shared_prefix import Prefixes, PrefixReader


@dataclass(frozen=True)
class BeamAttentionMetadata:
    """In place of a backend's metadata, for a pass that feeds each beam's token of `depth`.

    `ancestry`: see `BeamLevels`. `prefix_plans`: what each `PrefixReader` plans for these prefixes.
    """

    depth: int
    ancestry: torch.Tensor
    prefixes: Prefixes
    prefix_plans: Mapping[PrefixReader, torch.Tensor | None]


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


def check_layer(layer: Any) -> None:
    """Refuse a layer that does what the merge of prefix and suffix would get wrong.

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
    for feature, is_there in found.items():
        if is_there:
            raise ValueError(f"The draft's {feature} cannot be used with speculative method 'mtad'.")


def check_page_layout(layer: Any) -> None:
    """vLLM's CPU engine packs pages as its instructions like them; it decides when the KV cache is set up."""
    if (isa := getattr(layer, "isa", "vec")) != "vec":
        raise ValueError(
            f"The draft's KV cache is packed for {isa!r} on this CPU, which speculative method 'mtad' cannot read on"
            " Model Runner V2: use dtype='float32' and a block_size that is a multiple of 32, or Model Runner V1."
        )


class BeamAttention:
    """Stands before a draft layer's attention: beam steps come here, everything else goes on to the backend.

    Args:
        layer: the draft model's attention layer; its implementation's `forward` is replaced.
        max_num_reqs, beam_width, max_depth: the size of the scratch; `max_depth` is gamma - 1, for the last token of a
            draft is never fed.
        prefix_reader: shared by all layers of this shape.
        dtype, device: of the draft model.
    """

    def __init__(
        self,
        layer: Any,
        max_num_reqs: int,
        beam_width: int,
        max_depth: int,
        prefix_reader: PrefixReader,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._impl, self._prefix_reader = layer.impl, prefix_reader
        self._backend_forward = layer.impl.forward
        self._layout = CACHE_LAYOUTS[layer.attn_backend.get_name()]
        self._upcast = device.type == "cpu"  # as TritonPrefixReader
        shape = (max_num_reqs, max_depth, beam_width, self._impl.num_kv_heads, self._impl.head_size)
        self._key_scratch = torch.zeros(shape, dtype=dtype, device=device)
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
        keys, values = self._layout(kv_cache, impl.head_size)
        prefix, lse = self._prefix_reader.read(
            query, keys, values, attn_metadata.prefixes, attn_metadata.prefix_plans[self._prefix_reader]
        )
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
