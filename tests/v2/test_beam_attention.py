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
from vllm_mtad.config.refusals import V2_ATTENTION_BACKENDS
from vllm_mtad.runners.v2.attention_stand_in import CACHE_LAYOUTS, check_layer, check_page_layout
from vllm_mtad.runners.v2.beam_attention import BeamAttention, BeamAttentionMetadata
from vllm_mtad.runners.v2.kernels.suffix_attention import MAX_SPLITS
from vllm_mtad.runners.v2.shared_prefix import (
    MAX_SPLIT_OUTPUTS,
    AttentionShape,
    FlashPrefixReader,
    Prefixes,
    TritonPrefixReader,
    max_splits,
    prefix_readers,
)

CPU = torch.device("cpu")
MAX_REQS = 6
MAX_LEN = 256


def layer_of(case: Case, backend: str, **impl):
    num_heads, head_size = case.query.shape[1:]
    values = {"num_heads": num_heads, "num_kv_heads": case.keys.shape[1], "head_size": head_size, "scale": case.scale}
    values |= {"vllm_flash_attn_version": 3, "forward": lambda *args, **kwargs: ("backend", args, kwargs)}
    return SimpleNamespace(
        impl=SimpleNamespace(**(values | impl)), attn_backend=SimpleNamespace(get_name=lambda: backend)
    )


def reader_of(case: Case, layer):
    (reader,) = prefix_readers([layer], case.beam_width, MAX_REQS * case.beam_width, MAX_LEN, case.query.dtype, CPU)
    return reader


def beam_attention(case: Case, layer, reader) -> BeamAttention:
    return BeamAttention(layer, MAX_REQS, case.beam_width, case.max_depth, reader, case.query.dtype, CPU)


def run(case: Case, backend: str, cache: torch.Tensor, **impl) -> torch.Tensor:
    layer = layer_of(case, backend, **impl)
    reader = reader_of(case, layer)
    attention = beam_attention(case, layer, reader)
    num_reqs = len(case.lens)
    for own, given in ((attention._key_scratch, case.key_scratch), (attention._value_scratch, case.value_scratch)):
        own[:num_reqs] = given[:num_reqs]
    starts = torch.arange(num_reqs + 1, dtype=torch.int32) * case.beam_width
    depths = torch.full((case.beam_width,), case.depth + 1, dtype=torch.int32)
    prefixes = Prefixes(case.prefix_lens, case.block_table, starts, MAX_LEN, case.page, depths)
    metadata = BeamAttentionMetadata(case.depth + 1, case.ancestry, prefixes, {reader: reader.plan(prefixes)})
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
    case = Case(CPU, [40, 1, 0, 17])
    torch.testing.assert_close(run(case, backend, cache(case)), case.expected(), atol=2e-5, rtol=2e-5)


def test_flash_attention_2_reads_a_prefix_once_a_query_head_so_our_kernel_does():
    case = Case(CPU, [40, 3])
    out = run(case, "FLASH_ATTN", plain_cache(case), vllm_flash_attn_version=2)
    torch.testing.assert_close(out, case.expected(), atol=2e-5, rtol=2e-5)


def reference_flash_attention(
    *, q, k, v, cu_seqlens_q, max_seqlen_q, seqused_k, max_seqlen_k, softmax_scale, causal, block_table,
    return_softmax_lse, scheduler_metadata, num_splits, fa_version,
):  # fmt: skip
    """What FlashAttention computes of a paged cache: k, v `[pages, page, heads, dim]`; lse `[heads, rows]`."""
    assert not causal
    assert return_softmax_lse
    assert fa_version == 3
    assert num_splits >= 1
    assert scheduler_metadata == ("plan", num_splits)
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


def reference_scheduler_metadata(
    *, batch_size, max_seqlen_q, max_seqlen_k, num_heads_q, num_heads_kv, headdim, cache_seqlens, qkv_dtype,
    cu_seqlens_q, page_size, causal, num_splits,
):  # fmt: skip
    assert len(cache_seqlens) == batch_size == len(cu_seqlens_q) - 1
    assert int(cache_seqlens.max()) <= max_seqlen_k
    assert num_heads_q % num_heads_kv == 0
    assert not causal
    return "plan", num_splits


@pytest.fixture
def flash_attention(monkeypatch):
    module = ModuleType("vllm.vllm_flash_attn")
    module.flash_attn_varlen_func = reference_flash_attention
    module.get_scheduler_metadata = reference_scheduler_metadata
    monkeypatch.setitem(sys.modules, "vllm.vllm_flash_attn", module)


def test_flash_attention_3_reads_the_prefix_and_its_log_sum_exp_is_merged(flash_attention):
    case = Case(CPU, [40, 1, 0, 17])
    torch.testing.assert_close(run(case, "FLASH_ATTN", plain_cache(case)), case.expected(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    ("name", "stand_in"),
    [("flash_attn_varlen_func", reference_flash_attention), ("get_scheduler_metadata", reference_scheduler_metadata)],
)
def test_flash_attention_has_the_parameters_that_are_used(name, stand_in):
    """Read from its source: the module itself loads on GPUs only."""
    source = (Path(vllm.__file__).parent / "vllm_flash_attn" / "flash_attn_interface.py").read_text()
    (function,) = [n for n in ast.parse(source).body if getattr(n, "name", "") == name]
    parameters = {argument.arg for argument in function.args.args}
    assert set(inspect.signature(stand_in).parameters) <= parameters


def flash_attention_splits(blocks: list[int], num_kv_heads: int, units: int, at_most: int) -> list[int]:
    """Into how many parts FlashAttention 3 splits each request, by `hopper/flash_prepare_scheduler.cu`: for the whole
    batch to be read in equal shares, and a tenth to spare."""
    per_unit = -(-int(sum(blocks) * num_kv_heads * 1.1) // units)
    return [max(1, min(-(-n // per_unit), at_most)) for n in blocks]


@pytest.mark.parametrize("requests", [16, 32, 64, 128, 256])
@pytest.mark.parametrize(("num_kv_heads", "units"), [(8, 132), (2, 132), (1, 132)])
def test_one_long_prefix_beside_short_ones_is_split_by_flash_attention(requests, num_kv_heads, units):
    """A bound on the splits must not make the longest of them wait: one of 32k tokens, the others of 1k."""
    blocks = [32_768 // 128, *[1024 // 128] * (requests - 1)]
    splits = flash_attention_splits(blocks, num_kv_heads, units, max_splits(4 * requests, 4 * num_kv_heads))
    balanced = sum(blocks) * num_kv_heads / units
    assert blocks[0] / splits[0] <= max(2 * balanced, blocks[0] / MAX_SPLITS)


def test_the_bound_on_splits_follows_the_outputs_that_are_held():
    assert max_splits(4, 32) == max_splits(128, 32) == max_splits(1024, 4) == MAX_SPLITS
    assert max_splits(1024, 32) == 4
    assert max_splits(16_384, 32) == 1


@pytest.mark.parametrize(
    ("backend", "cache", "as_window"),
    [
        ("TRITON_ATTN", plain_cache, lambda n: (n - 1, 0)),
        ("FLASH_ATTN", plain_cache, lambda n: (n - 1, 0)),
        ("CPU_ATTN", cpu_cache, lambda n: n),
    ],
)
def test_what_a_layer_asks_of_attention_is_done(backend, cache, as_window):
    """As each backend keeps it: windows (Gemma 3), soft-caps (Gemma 2), sinks (gpt-oss)."""
    case = Case(CPU, [70, 1, 0, 17], window=20, soft_cap=1.5, has_sinks=True)
    out = run(case, backend, cache(case), sliding_window=as_window(20), logits_soft_cap=1.5, sinks=case.sinks)
    torch.testing.assert_close(out, case.expected(), atol=2e-5, rtol=2e-5)


def test_sinks_are_merged_with_what_flash_attention_has_read(flash_attention):
    case = Case(CPU, [40, 1, 0, 17], has_sinks=True)
    out = run(case, "FLASH_ATTN", plain_cache(case), sinks=case.sinks)
    torch.testing.assert_close(out, case.expected(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("none", [{}, {"sliding_window": (-1, -1)}, {"sliding_window": -1}, {"logits_soft_cap": 0}])
def test_a_window_that_no_text_reaches_is_none(none):
    case = Case(CPU, [5])
    plain = AttentionShape.of(layer_of(case, "TRITON_ATTN", **none).impl, MAX_LEN)
    assert (plain.window, plain.soft_cap) == (0, 0.0)
    for window in (MAX_LEN, (MAX_LEN - 1, 0), 4 * MAX_LEN):
        assert AttentionShape.of(layer_of(case, "TRITON_ATTN", sliding_window=window).impl, MAX_LEN) == plain
    assert AttentionShape.of(layer_of(case, "TRITON_ATTN", sliding_window=(63, 0)).impl, MAX_LEN).window == 64


def test_everything_but_a_beam_step_goes_to_the_backend():
    case = Case(CPU, [5])
    layer = layer_of(case, "TRITON_ATTN")
    beam_attention(case, layer, reader_of(case, layer))
    for metadata in (None, SimpleNamespace()):
        name, args, kwargs = layer.impl.forward(layer, 1, 2, 3, 4, metadata, 6, output_scale=7)
        assert name == "backend"
        assert args == (layer, 1, 2, 3, 4, metadata, 6)
        assert kwargs == {"output_scale": 7}


def test_another_backend_is_refused_by_name():
    with pytest.raises(ValueError, match=r"FLASHINFER .*speculative_config\.attention_backend.* cannot be used"):
        check_layer(layer_of(Case(CPU, [5]), "FLASHINFER"))


def test_what_a_layer_does_beyond_that_is_refused_by_name():
    with pytest.raises(ValueError, match="ALiBi"):
        check_layer(layer_of(Case(CPU, [5]), "TRITON_ATTN", alibi_slopes=[0.5]))


def test_pages_packed_for_other_instructions_are_refused():
    check_page_layout(SimpleNamespace())
    check_page_layout(SimpleNamespace(isa="vec"))
    with pytest.raises(ValueError, match="packed for 'amx'"):
        check_page_layout(SimpleNamespace(isa="amx"))


def test_the_configuration_accepts_the_backends_whose_layout_is_known():
    assert set(V2_ATTENTION_BACKENDS) == set(CACHE_LAYOUTS)


@pytest.mark.parametrize(("num_heads", "most_rows"), [(8, 800), (32, 68), (32, 72), (64, 1088), (64, 16_000)])
def test_the_kernel_s_outputs_have_room_for_every_batch(num_heads, most_rows):
    """A target's batch, padded to one of vLLM's sizes, may have any number of rows."""
    shape = AttentionShape(num_heads=num_heads, num_kv_heads=2, head_size=16, scale=1.0)
    reader = TritonPrefixReader(shape, 4, most_rows, CPU)
    assert len(reader._out) == len(reader._lse) * shape.head_size
    needed = [rows * num_heads * max_splits(rows, num_heads) for rows in range(1, most_rows + 1)]
    assert max(needed) <= len(reader._lse) <= max(MAX_SPLIT_OUTPUTS, most_rows * num_heads)


def test_layers_of_one_shape_share_a_reader():
    wide, narrow = Case(CPU, [5]), Case(CPU, [5], head_size=16)
    layers = [layer_of(case, "FLASH_ATTN") for case in (wide, narrow, wide)] + [layer_of(wide, "TRITON_ATTN")]
    first, second, third, fourth = prefix_readers(layers, 4, MAX_REQS, MAX_LEN, torch.float32, CPU)
    assert first is third
    assert len({first, second, fourth}) == 3
    assert [type(r) for r in (first, fourth)] == [FlashPrefixReader, TritonPrefixReader]
