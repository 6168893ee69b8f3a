"""BeamAttention before a draft layer: which cache layout, which way to read the prefix, and what passes through."""

import ast
import inspect
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import vllm

from tests.v2.kernels.test_beam_attention import Case, dense_attention, dense_lse
from vllm_mtad.config.engine_checks import V2_ATTENTION_BACKENDS
from vllm_mtad.runners.v2.beam_attention import (
    CACHE_LAYOUTS,
    BeamAttention,
    BeamAttentionMetadata,
    PrefixWorkspace,
    check_page_layout,
)

MAX_REQS = 6


def layer_of(case: Case, backend: str, **impl):
    num_heads, head_size = case.query.shape[1:]
    values = {"num_heads": num_heads, "num_kv_heads": case.keys.shape[1], "head_size": head_size, "scale": case.scale}
    values |= {"vllm_flash_attn_version": 3, "forward": lambda *args, **kwargs: ("backend", args, kwargs)}
    return SimpleNamespace(
        impl=SimpleNamespace(**(values | impl)), attn_backend=SimpleNamespace(get_name=lambda: backend)
    )


def beam_attention(case: Case, backend: str, **impl) -> tuple[BeamAttention, SimpleNamespace]:
    layer = layer_of(case, backend, **impl)
    workspace = PrefixWorkspace.allocate([layer], MAX_REQS, case.beam_width, case.query.device)
    return BeamAttention(layer, MAX_REQS, case.beam_width, case.max_depth, workspace, case.query.dtype), layer


def run(case: Case, backend: str, cache: torch.Tensor, **impl) -> torch.Tensor:
    attention, layer = beam_attention(case, backend, **impl)
    num_reqs = len(case.lens)
    for own, given in ((attention._key_scratch, case.key_scratch), (attention._value_scratch, case.value_scratch)):
        own[:num_reqs] = given[:num_reqs]
    metadata = BeamAttentionMetadata(
        depth=case.depth,
        prefix_lens=case.prefix_lens,
        block_table=case.block_table,
        query_start_loc=torch.arange(num_reqs + 1, dtype=torch.int32) * case.beam_width,
        ancestry=case.ancestry,
        max_prefix_len=256,
    )
    out = torch.empty(case.query.shape)
    layer.impl.forward(layer, case.query, case.new_key, case.new_value, cache, metadata, out)
    return out


def plain_cache(case: Case) -> torch.Tensor:
    return torch.cat([case.keys, case.values], dim=-1)


def cpu_cache(case: Case) -> torch.Tensor:
    """As vLLM's CPU engine packs a page: all keys, dimension first, then all values."""
    pages, heads, page, dim = case.keys.shape
    keys = case.keys.transpose(2, 3).reshape(pages, heads, -1)
    return torch.cat([keys, case.values.reshape(pages, heads, -1)], dim=-1).view(pages, heads, page, 2 * dim)


@pytest.mark.parametrize(("backend", "cache"), [("TRITON_ATTN", plain_cache), ("CPU_ATTN", cpu_cache)])
def test_our_kernel_reads_the_prefix(backend, cache):
    case = Case(torch.device("cpu"), [40, 1, 0, 17])
    torch.testing.assert_close(run(case, backend, cache(case)), case.expected(), atol=2e-5, rtol=2e-5)


def test_flash_attention_2_reads_a_prefix_once_a_query_head_so_our_kernel_does():
    case = Case(torch.device("cpu"), [40, 3])
    out = run(case, "FLASH_ATTN", plain_cache(case), vllm_flash_attn_version=2)
    torch.testing.assert_close(out, case.expected(), atol=2e-5, rtol=2e-5)


def reference_flash_attention(
    *, q, k, v, cu_seqlens_q, max_seqlen_q, seqused_k, max_seqlen_k, softmax_scale, causal, block_table,
    return_softmax_lse, num_splits, fa_version,
):  # fmt: skip
    """What FlashAttention computes of a paged cache: k, v `[pages, page, heads, dim]`; lse `[heads, rows]`."""
    assert not causal
    assert return_softmax_lse
    assert fa_version == 3
    assert num_splits >= 1
    assert int(seqused_k.max()) <= max_seqlen_k
    out, lse = torch.full(q.shape, torch.nan), torch.full((q.shape[1], len(q)), torch.inf)
    for request, (start, end) in enumerate(zip(cu_seqlens_q[:-1].tolist(), cu_seqlens_q[1:].tolist())):
        assert end - start <= max_seqlen_q
        n = int(seqused_k[request])
        keys, values = (cache[block_table[request].long()].flatten(0, 1)[:n] for cache in (k, v))
        for row in range(start, end) if n else ():
            out[row] = dense_attention(q[row], keys, values, softmax_scale)
            lse[:, row] = dense_lse(q[row], keys, softmax_scale)
    return out, lse


def test_flash_attention_3_reads_the_prefix_and_its_log_sum_exp_is_merged(monkeypatch):
    module = ModuleType("vllm.vllm_flash_attn")
    module.flash_attn_varlen_func = reference_flash_attention
    monkeypatch.setitem(sys.modules, "vllm.vllm_flash_attn", module)
    case = Case(torch.device("cpu"), [40, 1, 0, 17])
    torch.testing.assert_close(run(case, "FLASH_ATTN", plain_cache(case)), case.expected(), atol=2e-5, rtol=2e-5)


def test_flash_attention_has_the_parameters_that_are_used():
    """Read from its source: the module itself loads on GPUs only."""
    source = (Path(vllm.__file__).parent / "vllm_flash_attn" / "flash_attn_interface.py").read_text()
    (function,) = [n for n in ast.parse(source).body if getattr(n, "name", "") == "flash_attn_varlen_func"]
    parameters = {argument.arg for argument in function.args.args}
    assert set(inspect.signature(reference_flash_attention).parameters) <= parameters


def test_everything_but_a_beam_step_goes_to_the_backend():
    case = Case(torch.device("cpu"), [5])
    _, layer = beam_attention(case, "TRITON_ATTN")
    for metadata in (None, SimpleNamespace()):
        name, args, kwargs = layer.impl.forward(layer, 1, 2, 3, 4, metadata, 6, output_scale=7)
        assert name == "backend"
        assert args == (layer, 1, 2, 3, 4, metadata, 6)
        assert kwargs == {"output_scale": 7}


def test_another_backend_is_refused_by_name():
    with pytest.raises(ValueError, match=r"FLASHINFER .*speculative_config\.attention_backend.* cannot be used"):
        beam_attention(Case(torch.device("cpu"), [5]), "FLASHINFER")


@pytest.mark.parametrize(
    ("feature", "impl"),
    [
        ("ALiBi", {"alibi_slopes": [0.5]}),
        ("attention sinks", {"sinks": torch.zeros(8)}),
        ("logit soft-cap", {"logits_soft_cap": 30.0}),
        ("sliding window", {"sliding_window": (63, 0)}),
    ],
)
def test_what_a_layer_does_beyond_causal_softmax_is_refused_by_name(feature, impl):
    with pytest.raises(ValueError, match=feature):
        beam_attention(Case(torch.device("cpu"), [5]), "TRITON_ATTN", **impl)


def test_pages_packed_for_other_instructions_are_refused():
    check_page_layout(SimpleNamespace())
    check_page_layout(SimpleNamespace(isa="vec"))
    with pytest.raises(ValueError, match="packed for 'amx'"):
        check_page_layout(SimpleNamespace(isa="amx"))


def test_the_configuration_accepts_the_backends_whose_layout_is_known():
    assert set(V2_ATTENTION_BACKENDS) == set(CACHE_LAYOUTS)


@pytest.mark.parametrize("programs", [1, 40, 500])
def test_the_workspace_holds_every_batch(programs):
    case = Case(torch.device("cpu"), [5])
    layer = layer_of(case, "TRITON_ATTN")
    workspace = PrefixWorkspace.allocate([layer], 200, case.beam_width, torch.device("cpu"), programs)
    num_heads, head_size = case.query.shape[1:]
    for n in range(1, 201):
        query = torch.empty(n * case.beam_width, num_heads, head_size)
        out, lse = workspace.views(query, n, case.keys.shape[1])
        assert out.shape[1:] == query.shape
        assert lse.shape == out.shape[:3]


def test_no_workspace_where_flash_attention_reads_the_prefix():
    layer = layer_of(Case(torch.device("cpu"), [5]), "FLASH_ATTN")
    workspace = PrefixWorkspace.allocate([layer], 8, 4, torch.device("cpu"))
    assert workspace.out.numel() == workspace.lse.numel() == 0
