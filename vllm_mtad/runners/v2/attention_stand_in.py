"""`AttentionStandIn` puts the plugin's own attention in place of a backend's, where a layer and a pass need it.

This module knows how a layer's KV cache is read, and whether a layer asks for something that ours does not do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from vllm.model_executor.layers.attention import Attention

from vllm_mtad.config.refusals import split_blocks
from vllm_mtad.releases import moved


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


def check_layer(
    layer: Any,
    model: str = "draft",
    option: str = "speculative_config.attention_backend",
    asked_for: str = "speculative method 'mtad'",
) -> None:
    """Refuse a layer that does what our attention would get wrong.

    The configuration was checked by what models say of themselves (`config.attention`); this asks the layer.

    Args:
        model: "draft" or "target".
        option: the one that chooses its backend.
        asked_for: what cannot be used with such a layer.
    """
    impl, backend = layer.impl, layer.attn_backend.get_name()
    found = {
        f"attention backend {backend} (accepted: {', '.join(CACHE_LAYOUTS)}; {option})": backend not in CACHE_LAYOUTS,
        f"attention of its own kind ({type(layer).__name__})": isinstance(layer, Attention)
        and type(layer) is not Attention,
        "ALiBi": getattr(impl, "alibi_slopes", None) is not None,
        "KV sharing between layers": getattr(layer, "kv_sharing_target_layer_name", None) is not None,
        "quantized KV cache": moved("is_quantized_kv_cache")(getattr(layer, "kv_cache_dtype", "auto")),
        "head size of values": getattr(layer, "head_size_v", impl.head_size) != impl.head_size,
    }
    for feature, is_there in found.items():
        if is_there:
            raise ValueError(f"The {model}'s {feature} cannot be used with {asked_for}.")


def check_page_layout(layer: Any, model: str = "draft") -> None:
    """vLLM's CPU engine packs pages as its instructions like them; it decides when the KV cache is set up."""
    if (isa := getattr(layer, "isa", "vec")) != "vec":
        raise ValueError(
            f"The {model}'s KV cache is packed for {isa!r} on this CPU, which speculative method 'mtad' cannot read on"
            " Model Runner V2: use dtype='float32' and a block_size that is a multiple of 32, or Model Runner V1."
        )


class AttentionStandIn(ABC):
    """Stands before a layer's attention: passes whose metadata are its own come to `attend`, all others go on to the
    backend, and a pass that has requests of both sorts goes to both. KV caches are written as ever.

    Args:
        layer: vLLM's attention layer; its implementation's `forward` is replaced.
        device: of the model.
    """

    metadata: type[Any]

    def __init__(self, layer: Any, device: torch.device) -> None:
        self._impl = layer.impl
        self._backend_forward = layer.impl.forward
        self._layout = CACHE_LAYOUTS[layer.attn_backend.get_name()]
        self._upcast = device.type == "cpu"  # as TritonPrefixReader
        self._soft_cap = float(getattr(layer.impl, "logits_soft_cap", None) or 0)
        layer.impl.forward = self.forward
        # Compilation may fuse a quantization of the output into the backend's kernel; ours have none.
        layer.impl.fused_output_quant_supported = _fuses_no_quantization

    def pages(self, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of a layer's cache as keys and values, each `[num_pages, num_kv_heads, page, head_size]`."""
        return self._layout(kv_cache, self._impl.head_size)

    @property
    def _sinks(self) -> torch.Tensor | None:
        """`[num_heads]`. A backend may put another tensor in their place when it first needs them."""
        return getattr(self._impl, "sinks", None)

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
        """AttentionImpl.forward; query `[rows, num_heads, head_size]`, key, value `[rows, num_kv_heads, head_size]`."""
        if not isinstance(attn_metadata, self.metadata):
            return self._backend_forward(layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs)
        pages = self.pages(kv_cache)
        if (page_size := attn_metadata.prefixes.page_size) != pages[0].shape[2]:  # split for another backend's sake
            raise split_blocks(page_size, pages[0].shape[2])
        if (of_others := self.of_others(attn_metadata)) is not None:
            self._backend_forward(layer, query, key, value, kv_cache, of_others, output, *args, **kwargs)
        impl = self._impl
        query, out = (t.view(-1, impl.num_heads, impl.head_size) for t in (query, output))
        key, value = (t.view(-1, impl.num_kv_heads, impl.head_size) for t in (key, value))
        self.attend(query, key, value, *pages, attn_metadata, out)
        return output

    def of_others(self, metadata: Any) -> Any:
        """The backend's metadata if a pass also has requests of the backend, which then attends first; else None."""
        return None

    @abstractmethod
    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        metadata: Any,
        out: torch.Tensor,
    ) -> None:
        """Write `out` `[rows, num_heads, head_size]`. `keys`, `values`: of `pages`."""


def _fuses_no_quantization(quant_key: Any) -> bool:
    return False
