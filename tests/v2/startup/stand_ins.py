"""A draft model, FlashAttention and kernel launches without data: functions that check what they are given.

FlashAttention's checks are those of its C++ (`hopper/flash_api.cpp`, `mha_fwd` and `mha_fwd_get_scheduler_metadata`).
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

from benchmarks.gpu_checks.models import ModelShape

META = torch.device("meta")


class StandInLayer(AttentionLayerBase):
    """A draft's attention layer as the speculator sees it, with FlashAttention 3 or Triton's backend behind it."""

    def __init__(self, shape: ModelShape, backend: str) -> None:
        self.attn_backend = SimpleNamespace(get_name=lambda: backend)
        self.impl = SimpleNamespace(
            num_heads=shape.num_attention_heads,
            num_kv_heads=shape.num_key_value_heads,
            head_size=shape.head_dim,
            scale=shape.head_dim**-0.5,
            vllm_flash_attn_version=3,
            forward=lambda *args, **kwargs: None,
        )

    def get_attn_backend(self) -> Any:
        return self.attn_backend

    def get_kv_cache_spec(self, vllm_config: Any) -> None:
        return None


class StandInDraft(nn.Module):
    """Checks each pass; its attention layers are called as vLLM's operator calls them.

    Args:
        largest: tokens that the compiled draft takes.
    """

    def __init__(self, shape: ModelShape, layers: dict[str, StandInLayer], largest: int, page_size: int) -> None:
        super().__init__()
        self.shape, self.layers, self.largest = shape, layers, largest
        kv_heads = shape.num_key_value_heads
        self.kv_cache = torch.empty(4096, kv_heads, page_size, 2 * shape.head_dim, dtype=torch.bfloat16, device=META)
        self.passes: list[int] = []

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        tokens, shape = len(input_ids), self.shape
        assert tokens <= self.largest, f"Shape {tokens} out of considered ranges"
        assert (input_ids.dtype, positions.dtype) == (torch.int32, torch.int64)
        assert positions.shape == (tokens,)
        self.passes.append(tokens)

        def projection(heads: int) -> torch.Tensor:
            """A part of one tensor, as of a fused projection."""
            width = (shape.num_attention_heads + 2 * shape.num_key_value_heads) * shape.head_dim
            whole = torch.empty(tokens, width, dtype=torch.bfloat16, device=META)
            return whole[:, : heads * shape.head_dim].view(tokens, heads, shape.head_dim)

        for name, layer in self.layers.items():
            query, key, value = map(projection, (shape.num_attention_heads, *[shape.num_key_value_heads] * 2))
            out = torch.empty(query.shape, dtype=query.dtype, device=META)
            metadata = get_forward_context().attn_metadata[name]
            layer.impl.forward(layer, query, key, value, self.kv_cache, metadata, out)
        return torch.empty(tokens, shape.hidden_size, dtype=torch.bfloat16, device=META)

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        assert hidden.shape[1] == self.shape.hidden_size
        return torch.empty(len(hidden), self.shape.vocab_size, dtype=torch.bfloat16, device=META)


def check_launch(executor: Any, *args: Any, **kwargs: Any) -> None:
    """In place of a launch: a grid that is not empty, and arguments that a kernel takes."""
    grid = executor.grid
    assert all(isinstance(n, int) and n > 0 for n in grid), grid
    assert all(n <= limit for n, limit in zip(grid, (2**31 - 1, 65_535, 65_535))), grid
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            assert value.device == META, "a tensor of the host"
        else:
            assert value is None or isinstance(value, (int, float, str, torch.dtype)), value


def flash_attention() -> ModuleType:
    """`vllm.vllm_flash_attn`, of functions that check their arguments."""
    module: Any = ModuleType("vllm.vllm_flash_attn")
    module.flash_attn_varlen_func, module.get_scheduler_metadata = _flash_attn_varlen_func, _get_scheduler_metadata
    return module


def _flash_attn_varlen_func(
    *, q, k, v, cu_seqlens_q, max_seqlen_q, seqused_k, max_seqlen_k, softmax_scale, causal, block_table,
    return_softmax_lse, scheduler_metadata, num_splits, fa_version,
):  # fmt: skip
    requests, (rows, heads, size) = len(seqused_k), q.shape
    pages, page, kv_heads, _ = k.shape
    assert q.dtype == k.dtype == v.dtype in (torch.bfloat16, torch.float16)
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    assert all(stride % 8 == 0 for t in (q, k, v) for stride in t.stride()[:-1]), "loads of 16 bytes"
    assert k.shape == v.shape == (pages, page, kv_heads, size)
    assert size <= 256
    assert size % 8 == 0
    assert heads % kv_heads == 0
    assert cu_seqlens_q.dtype == seqused_k.dtype == block_table.dtype == torch.int32
    assert cu_seqlens_q.is_contiguous()
    assert seqused_k.is_contiguous()
    assert cu_seqlens_q.shape == (requests + 1,)
    assert block_table.shape[0] == requests
    assert block_table.stride(-1) == 1
    assert max_seqlen_k <= block_table.shape[1] * page
    assert scheduler_metadata.dtype == torch.int32
    assert (fa_version, causal, return_softmax_lse) == (3, False, True)
    assert 1 <= num_splits <= 256
    assert softmax_scale > 0
    return torch.empty_like(q), torch.empty(heads, rows, dtype=torch.float32, device=META)


def _get_scheduler_metadata(
    *, batch_size, max_seqlen_q, max_seqlen_k, num_heads_q, num_heads_kv, headdim, cache_seqlens, qkv_dtype,
    cu_seqlens_q, page_size, causal, num_splits,
):  # fmt: skip
    assert cache_seqlens.dtype == cu_seqlens_q.dtype == torch.int32
    assert cache_seqlens.shape == (batch_size,)
    assert cu_seqlens_q.shape == (batch_size + 1,)
    assert num_heads_q % num_heads_kv == 0
    assert headdim % 8 == 0
    assert page_size > 0
    assert qkv_dtype in (torch.bfloat16, torch.float16)
    assert max_seqlen_q > 0 < max_seqlen_k
    assert causal is False
    assert 1 <= num_splits <= 256
    return torch.empty(4 * batch_size + 4, dtype=torch.int32, device=META)
