"""What each model runner accepts beside mtad: engine options, sizes, schedules and several candidates."""

import pickle

import pytest

from tests.config.asking import create, refusal
from vllm_mtad.config.options import MTADOptions


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"logits_processors": ["some.module:Processor"]}, "logits_processors"),
        ({"max_model_len": 4}, "num_speculative_tokens=4"),
        ({"pipeline_parallel_size": 2, "distributed_executor_backend": "mp"}, "pipeline_parallel_size=2"),
    ],
)
def test_an_engine_option_that_cannot_be_combined_is_named(small_pair, options, named):
    assert named in refusal(small_pair[0], {"method": "mtad", "model": small_pair[1]}, **options)


def test_all_that_cannot_be_combined_is_named_at_once(small_pair):
    given = {"method": "mtad", "model": small_pair[1]}
    options = {"logits_processors": ["some.module:Processor"], "logprobs_mode": "processed_logits", "max_model_len": 4}
    said = refusal(small_pair[0], given, **options)
    for named in ("logits_processors cannot", "processed_logits' cannot", "num_speculative_tokens=4 does not fit"):
        assert said.count(named) == 1


def test_a_given_number_of_blocks_must_hold_scratch_and_a_request_on_v1(small_pair, with_triton, monkeypatch):
    """One request's 4 beams take 2 blocks each, and one of 128 tokens needs 5."""
    given, blocks = {"method": "mtad", "model": small_pair[1]}, "num_gpu_blocks_override"
    create(small_pair[0], given, block_size=32, **{blocks: 12})  # on V2 beams have their own memory
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    create(small_pair[0], given, block_size=32, **{blocks: 13})
    assert "The KV cache has 12 blocks" in refusal(small_pair[0], given, block_size=32, **{blocks: 12})


SCHEDULE = {"num_speculative_tokens_per_batch_size": [(1, 2, 4), (3, 8, 0)]}
CANDIDATES = {"num_candidates": 4}


@pytest.mark.parametrize(
    ("fields", "options", "named"),
    [
        ({"beam_width": 200}, {"max_num_batched_tokens": 130, "max_num_seqs": 2}, "beam_width=200"),
        ({}, {"logprobs_mode": "processed_logits"}, "processed_logits"),
        ({}, {"max_model_len": -1}, "max_model_len='auto'"),
        ({}, {"enable_prompt_embeds": True}, "enable_prompt_embeds=True"),
    ],
)
def test_what_only_v1_cannot_combine(small_pair, with_triton, monkeypatch, fields, options, named):
    given = {"method": "mtad", "model": small_pair[1], **fields}
    if "beam_width" not in fields:
        create(small_pair[0], given, **options)
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    assert named in refusal(small_pair[0], given, **options)


@pytest.mark.parametrize(
    ("fields", "options", "named"),
    [
        ({"beam_width": 17}, {}, "beam_width=17 is not accepted by mtad on Model Runner V2: give at most 16"),
        ({"num_speculative_tokens": 33}, {}, "num_speculative_tokens=33 is not accepted by mtad on Model Runner V2"),
        ({"attention_backend": "FLASHINFER"}, {}, "attention_backend='FLASHINFER'"),
        ({"kv_cache_dtype": "fp8"}, {}, "kv_cache_dtype='fp8'"),
        ({}, {"kv_cache_dtype": "fp8"}, "kv_cache_dtype='fp8'"),
        (
            CANDIDATES | {"kv_cache_dtype": "auto"},
            {"kv_cache_dtype": "fp8"},
            "kv_cache_dtype='fp8' with speculative_config.num_candidates above 1",
        ),
        ({}, {"enable_lora": True}, "lora_target_modules=None with enable_lora=True"),
        (
            {},
            {"enable_lora": True, "lora_target_modules": ["q_proj", "lm_head"]},
            "lora_target_modules=['q_proj', 'lm_head'] with enable_lora=True cannot be combined with speculative method"
            " 'mtad': it accepts modules without 'lm_head'",
        ),
        (
            CANDIDATES,
            {"max_num_batched_tokens": 16, "max_num_seqs": 4},
            "max_num_batched_tokens",
        ),  # 0.33 says it itself
        (CANDIDATES, {"max_model_len": 16}, "17 rows, and max_model_len is 16"),
        (
            CANDIDATES | {"max_candidate_rows": 16},
            {},
            "max_candidate_rows=16 is not accepted by mtad: a request with 4",
        ),
        (
            {"num_speculative_tokens_per_batch_size": [(1, 2, 4), (3, 8, 5)]},
            {},
            "has 5 draft tokens at batch sizes 3 to 8: give at most num_speculative_tokens, 4",
        ),
    ],
)
def test_what_only_v2_cannot_combine(small_pair, with_triton, fields, options, named):
    assert named in refusal(small_pair[0], {"method": "mtad", "model": small_pair[1], **fields}, **options)


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"beam_width": 16, "num_speculative_tokens": 32}, {}),
        ({}, {"max_num_batched_tokens": 130, "max_num_seqs": 40}),  # more beams than tokens of a step
        ({}, {"attention_backend": "FLEX_ATTENTION"}),  # the target's; the draft takes another
        (CANDIDATES, {}),
        ({}, {"enable_lora": True, "lora_target_modules": ["q_proj"]}),
        ({"kv_cache_dtype": "auto"}, {"kv_cache_dtype": "fp8"}),
        (CANDIDATES, {"data_parallel_size": 2}),
    ],
)
def test_what_v2_accepts(small_pair, with_triton, fields, options):
    create(small_pair[0], {"method": "mtad", "model": small_pair[1], **fields}, **options)


@pytest.mark.parametrize("runner", ["0", "1"])
@pytest.mark.parametrize("candidates", [{}, CANDIDATES])
@pytest.mark.parametrize("replicas", [1, 2])
def test_schedules_of_draft_lengths_are_accepted(small_pair, with_triton, monkeypatch, runner, candidates, replicas):
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", runner)
    given = {"method": "mtad", "model": small_pair[1], **SCHEDULE, **candidates}
    config = create(small_pair[0], given, data_parallel_size=replicas).speculative_config
    assert config.num_speculative_tokens_per_batch_size[-1][2] == 0


def test_several_candidates_on_v1(small_pair, monkeypatch):
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    given = {"method": "mtad", "model": small_pair[1], **CANDIDATES}
    config = create(small_pair[0], given).speculative_config
    assert config.num_speculative_tokens == 16
    assert config.num_speculative_tokens_per_batch_size[0] == (1, 2, 16)
    assert config.options.max_candidate_rows == 40
    long = create(small_pair[0], given | {"num_speculative_tokens": 16}).speculative_config
    assert long.options.max_candidate_rows == 65, "one request always fits"
    assert "17 rows, and max_model_len is 16" in refusal(small_pair[0], given, max_model_len=16)
    few = {"max_num_batched_tokens": 16, "max_num_seqs": 2}
    assert "max_num_batched_tokens" in refusal(small_pair[0], given, **few)  # 0.33 says it itself


@pytest.mark.parametrize(
    ("heads", "head_size", "itemsize", "widest"),
    [
        ((8, 8), 64, 4, 64),
        ((64, 8), 64, 4, 8),
        ((64, 8), 128, 4, 4),
        ((28, 4), 80, 4, 4),
        ((64, 8), 128, 2, 16),
        ((32, 8), 256, 2, 16),
        ((64, 4), 256, 2, 4),
        ((32, 1), 32, 2, 8),
    ],
)
def test_beams_must_fit_into_a_gpu(heads, head_size, itemsize, widest):
    from vllm_mtad.config.engine_checks import widest_beams

    assert widest_beams(*heads, head_size, itemsize) == widest


@pytest.mark.parametrize(
    ("dtype", "most", "said"),
    [
        ("float32", 2, "give at most 2, or dtype='bfloat16' or 'float16'."),
        ("float32", 0, "give dtype='bfloat16' or 'float16'."),
        ("bfloat16", 2, "give at most 2."),
        ("bfloat16", 0, "it has too many query heads a KV head, or too large ones."),
    ],
)
def test_beams_that_do_not_fit_are_refused_on_a_gpu(small_pair, with_triton, monkeypatch, dtype, most, said):
    from vllm_mtad.config import engine_checks

    config = create(small_pair[0], {"method": "mtad", "model": small_pair[1]}, dtype=dtype)
    monkeypatch.setattr("vllm.platforms.cpu.CpuPlatform.is_cpu", lambda self: False)
    engine_checks.check_engine(config)
    monkeypatch.setattr(engine_checks, "widest_beams", lambda *shape: most)
    with pytest.raises(ValueError, match="not accepted by mtad for this draft on a GPU") as refused:
        engine_checks.check_engine(config)
    assert f"beam_width=4 with dtype='{dtype}'" in str(refused.value)
    assert str(refused.value).endswith(f"on a GPU: {said}")


def test_full_graphs_of_mixed_batches_know_no_trees(small_pair, with_triton):
    from vllm.config.compilation import CUDAGraphMode

    from vllm_mtad.config.engine_checks import check_engine

    config = create(small_pair[0], {"method": "mtad", "model": small_pair[1], **CANDIDATES})
    config.compilation_config.cudagraph_mode = CUDAGraphMode.FULL_AND_PIECEWISE
    check_engine(config)
    config.compilation_config.cudagraph_mode = CUDAGraphMode.FULL  # which a CPU never has
    with pytest.raises(ValueError, match=r"cudagraph_mode='FULL' cannot be combined .*num_candidates=4"):
        check_engine(config)


def test_the_user_s_draft_length_is_one_candidate_s_and_vllm_s_that_of_all(small_pair, with_triton):
    given = {"method": "mtad", "model": small_pair[1], "num_speculative_tokens": 3, "num_candidates": 2}
    config = create(small_pair[0], given).speculative_config
    assert config.options == MTADOptions(num_speculative_tokens=3, num_candidates=2, max_candidate_rows=128)
    assert config.options.num_speculative_tokens == 3
    assert config.num_speculative_tokens == 6
    assert pickle.loads(pickle.dumps(config)).options == config.options


@pytest.mark.parametrize(
    ("num_candidates", "most_rows", "given", "expected"),
    [
        (1, 128, None, None),
        (1, 128, [(1, 8, 4), (9, 64, 2)], [(1, 8, 4), (9, 64, 2)]),
        (4, 128, None, {1: 16, 7: 16, 8: 4, 300: 4}),
        (2, 20, None, {1: 8, 2: 8, 3: 4, 300: 4}),
        (4, 128, [(1, 4, 4), (9, 64, 2)], {1: 16, 7: 16, 8: 4, 9: 2, 64: 2, 65: 2}),
        (4, 128, [(1, 4, 3), (5, 64, 0)], {1: 3, 4: 3, 5: 0, 64: 0}),
        (4, 128, [(1, 4, 3), (5, 6, 4), (12, 64, 4)], {4: 3, 5: 16, 7: 16, 8: 4, 12: 4, 64: 4}),
    ],
)
def test_large_batches_verify_one_candidate(num_candidates, most_rows, given, expected):
    """As vLLM reads the schedule: what it schedules at a batch size."""
    from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup

    from vllm_mtad.config.candidate_schedule import schedule_of_nodes

    options = MTADOptions(num_candidates=num_candidates, max_candidate_rows=most_rows)
    schedule = schedule_of_nodes(options, given)
    if not isinstance(expected, dict):
        assert schedule == expected
        return
    looked_up = build_dynamic_sd_schedule_lookup(schedule, 300, options.num_nodes)
    assert {size: looked_up[size] for size in expected} == expected


def test_v1_on_a_gpu_is_refused(small_pair, monkeypatch):
    from vllm_mtad.config.engine_checks import check_engine

    config = create(small_pair[0], {"method": "mtad", "model": small_pair[1]})
    monkeypatch.setattr("vllm.platforms.cpu.CpuPlatform.is_cpu", lambda self: False)
    with pytest.raises(ValueError, match="Model Runner V1"):
        check_engine(config)
