"""How mtad is asked for, and how it is refused: one sentence, before anything is loaded."""

import json
import pickle

import pytest
from transformers import (
    BloomConfig,
    DeepseekV2Config,
    Gemma2Config,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
)
from vllm.config import SpeculativeConfig, VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

from tests.small_pair import VOCAB_SIZE, save_tokenizer
from vllm_mtad.config.options import OWN_FIELDS, MTADOptions


def create(target: str, speculative_config, **engine_options) -> VllmConfig:
    engine_options = {"max_model_len": 128, "enforce_eager": True} | engine_options
    return EngineArgs(model=target, speculative_config=speculative_config, **engine_options).create_engine_config()


def parse(target: str, *flags: str) -> VllmConfig:
    """What `vllm serve TARGET FLAGS` makes of its flags."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", target, "--max-model-len", "128", *flags])
    return EngineArgs.from_cli_args(args).create_engine_config()


def refusal(target: str, speculative_config, **engine_options) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        create(target, speculative_config, **engine_options)
    message = str(error.value)
    assert "\n" not in message, "more than one sentence"
    return message


def test_defaults(small_pair):
    config = create(small_pair[0], {"method": "mtad", "model": small_pair[1]}).speculative_config
    assert config.method == "mtad"
    assert config.options == MTADOptions(4, 4, 0.5, "beam_sample", "lossless", "joint")
    assert config.num_speculative_tokens == 4
    assert config.lossy is True
    assert config.uses_draft_model()


def test_other_methods_are_not_lossy_and_take_no_mtad_fields(small_pair):
    target, draft = small_pair
    stock = create(target, {"method": "draft_model", "model": draft, "num_speculative_tokens": 3}).speculative_config
    assert stock.lossy is False
    assert stock.beam_width is None
    with pytest.raises(ValueError, match="beam_width is accepted with method='mtad' only"):
        create(target, {"method": "ngram", "num_speculative_tokens": 3, "beam_width": 8})


def test_other_processes_get_vllms_own_class_for_other_methods(small_pair):
    """They may not have the plugin: a configuration of mtad alone is pickled as this plugin's class."""
    target, draft = small_pair
    given = {"model": draft, "num_speculative_tokens": 3}
    stock = create(target, {"method": "draft_model", **given}).speculative_config
    sent = pickle.loads(pickle.dumps(stock))
    assert type(sent) is SpeculativeConfig
    assert sent.draft_model_config.model == draft
    assert set(vars(stock)) - set(vars(sent)) == {*OWN_FIELDS, "draft_length", "lossy", "accepts_logit_bias"}
    mtad = pickle.loads(pickle.dumps(create(target, {"method": "mtad", **given}).speculative_config))
    assert mtad.options == MTADOptions(num_speculative_tokens=3)


def test_json_flag(small_pair):
    given = {"method": "mtad", "model": small_pair[1], "acceptance_threshold": 0.3, "draft_sampling": "beam_search"}
    options = parse(small_pair[0], "--speculative-config", json.dumps(given)).speculative_config.options
    assert options == MTADOptions(acceptance_threshold=0.3, draft_sampling="beam_search")


@pytest.mark.parametrize("spelled", ["beam_width", "beam-width"])
def test_dotted_flags(small_pair, spelled):
    flags = ["--speculative-config.method", "mtad", "--speculative-config.model", small_pair[1]]
    config = parse(small_pair[0], *flags, f"--speculative-config.{spelled}", "8").speculative_config
    assert config.options == MTADOptions(beam_width=8)


def test_separate_flags(small_pair):
    flags = ["--spec-method", "mtad", "--spec-model", small_pair[1], "--spec-tokens", "3"]
    assert parse(small_pair[0], *flags).speculative_config.options == MTADOptions(num_speculative_tokens=3)


def test_bare_method_finds_the_bundled_draft(small_pair, tmp_path):
    """A target with the marker of the bundled pair gets the bundled draft; here with that pair's own config."""
    from vllm_mtad.pair import MINISQL

    for config in (parse(str(MINISQL.target), "--speculative-config", "mtad"), create(str(MINISQL.target), "mtad")):
        assert config.speculative_config.method == "mtad"
        assert config.speculative_config.model == str(MINISQL.draft)


def test_bare_method_without_a_known_draft_names_the_flag(small_pair):
    message = refusal(small_pair[0], "mtad")
    assert "knows no draft model" in message
    assert "--spec-model" in message


@pytest.fixture
def with_triton(monkeypatch):
    """As on a GPU, where Triton is there and Model Runner V2 the default."""
    from vllm.config import vllm as vllm_config

    monkeypatch.setattr(vllm_config, "HAS_TRITON", True)


def test_runs_on_v1_without_triton_and_on_v2_with_it(small_pair, request):
    given = {"method": "mtad", "model": small_pair[1]}
    config = create(small_pair[0], given)
    assert not config.use_v2_model_runner
    assert not config.speculative_config.accepts_logit_bias
    request.getfixturevalue("with_triton")
    config = create(small_pair[0], given)
    assert config.use_v2_model_runner
    assert config.speculative_config.accepts_logit_bias
    config._validate_v2_model_runner()


def test_async_scheduling_is_not_turned_off_for_mtad(small_pair, monkeypatch):
    """The CPU platform turns it off at the end for every method, so that is kept from doing so here."""
    from vllm.config import vllm as vllm_config

    seen = []

    def see(config):
        seen.append(config.scheduler_config.async_scheduling)

    monkeypatch.setattr("vllm.platforms.cpu.CpuPlatform.check_and_update_config", classmethod(lambda cls, c: see(c)))
    monkeypatch.setattr(vllm_config, "HAS_TRITON", True)
    create(small_pair[0], {"method": "mtad", "model": small_pair[1]})
    create(small_pair[0], {"method": "mtad", "model": small_pair[1]}, async_scheduling=True)
    create(small_pair[0], {"method": "ngram", "num_speculative_tokens": 2})
    assert seen == [True, True, False]


def test_help_shows_the_fields():
    parser = FlexibleArgumentParser()
    EngineArgs.add_cli_args(parser)
    text = parser._option_string_actions["--speculative-config"].help
    for name in ("beam_width", "acceptance_threshold", "draft_sampling", "greedy", "acceptance"):
        assert name in text


@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("num_speculative_tokens", 0, ">= 1"),
        ("num_speculative_tokens", -3, ">= 1"),
        ("beam_width", 0, ">= 1"),
        ("beam_width", 2.5, ">= 1"),
        ("acceptance_threshold", 1.0, "[0, 1)"),
        ("acceptance_threshold", -0.1, "[0, 1)"),
        ("acceptance_threshold", float("nan"), "[0, 1)"),
        ("draft_sampling", "nucleus", "'beam_sample' or 'beam_search'"),
        ("greedy", "fast", "'lossless' or 'joint'"),
        ("acceptance", "typical", "'joint' or 'per_token'"),
        ("num_candidates", 0, ">= 1"),
        ("num_candidates", -2, ">= 1"),
        ("num_candidates", True, ">= 1"),
        ("num_candidates", "two", ">= 1"),
        ("num_candidates", 5, "at most beam_width, 4"),
        ("candidate_test", "best", "'own' or 'reference'"),
        ("max_candidate_rows", 0, ">= 1"),
    ],
)
def test_a_bad_option_is_named_with_what_is_accepted(small_pair, field, value, accepted):
    message = refusal(small_pair[0], {"method": "mtad", "model": small_pair[1], field: value})
    assert field in message
    assert repr(value) in message
    assert accepted in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_heterogeneous_vocab", True),
        ("parallel_drafting", True),
        ("disable_padded_drafter_batch", True),
        ("rejection_sample_method", "block"),
        ("draft_sample_method", "probabilistic"),
        ("use_local_argmax_reduction", True),
        ("enable_adaptive_verification", True),
        ("draft_tensor_parallel_size", 2),
        ("no_such_field", 1),
    ],
)
def test_a_field_that_cannot_be_combined_is_named(small_pair, field, value):
    assert field in refusal(small_pair[0], {"method": "mtad", "model": small_pair[1], field: value})


@pytest.mark.parametrize("path", ["/no/such/folder", "./nowhere", "a/b/c"])
def test_a_draft_path_that_is_not_there(small_pair, path):
    message = refusal(small_pair[0], {"method": "mtad", "model": path})
    assert path in message
    assert "is not there" in message


@pytest.mark.parametrize("name", ["no-such/model", "an-empty-folder"])
def test_a_draft_that_cannot_be_loaded_is_named(small_pair, tmp_path, name):
    path = name if "/" in name else str(tmp_path)
    message = refusal(small_pair[0], {"method": "mtad", "model": path})
    assert path in message
    assert "cannot be used" in message


def test_a_target_with_another_kind_of_kv_cache_is_refused(small_pair, tmp_path):
    config = MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=32, architectures=["MistralForCausalLM"])
    config.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    message = refusal(str(tmp_path), {"method": "mtad", "model": small_pair[1]})
    assert "The target" in message
    assert "sliding-window attention" in message


def test_another_vocabulary(small_pair, tmp_path):
    save_llama(tmp_path, VOCAB_SIZE, swap=True)
    assert "another vocabulary" in refusal(small_pair[0], {"method": "mtad", "model": str(tmp_path)})


def test_the_same_tokenizer_padded_to_another_size(small_pair, tmp_path):
    save_llama(tmp_path, VOCAB_SIZE + 64)
    message = refusal(small_pair[0], {"method": "mtad", "model": str(tmp_path)})
    assert "padded to another size" in message
    assert str(VOCAB_SIZE + 64) in message


def test_vllms_own_draft_fields_keep_their_meaning(small_pair):
    given = {"method": "mtad", "model": small_pair[1], "max_model_len": 64, "revision": "main"}
    config = create(small_pair[0], {**given, "draft_tensor_parallel_size": 1}).speculative_config
    assert config.draft_model_config.max_model_len == 64
    assert config.draft_model_config.revision == "main"
    with pytest.raises(ValueError, match="quantization"):
        create(small_pair[0], {**given, "quantization": "no-such-format"})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"enable_lora": True}, "enable_lora"),
        ({"logits_processors": ["some.module:Processor"]}, "logits_processors"),
        ({"max_model_len": 4}, "num_speculative_tokens=4"),
        ({"data_parallel_size": 2}, "data_parallel_size=2"),
        ({"pipeline_parallel_size": 2, "distributed_executor_backend": "mp"}, "pipeline_parallel_size=2"),
    ],
)
def test_an_engine_option_that_cannot_be_combined_is_named(small_pair, options, named):
    assert named in refusal(small_pair[0], {"method": "mtad", "model": small_pair[1]}, **options)


SCHEDULE = {"num_speculative_tokens_per_batch_size": [(1, 2, 4), (3, 8, 0)]}
CANDIDATES = {"num_candidates": 4}


@pytest.mark.parametrize(
    ("fields", "options", "named"),
    [
        ({"beam_width": 200}, {"max_num_batched_tokens": 130, "max_num_seqs": 2}, "beam_width=200"),
        (SCHEDULE, {}, "num_speculative_tokens_per_batch_size"),
        ({}, {"logprobs_mode": "processed_logits"}, "processed_logits"),
        ({}, {"max_model_len": -1}, "max_model_len='auto'"),
        ({"num_candidates": 2}, {}, "num_candidates=2 on Model Runner V1"),
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
        (CANDIDATES, {"max_num_batched_tokens": 16, "max_num_seqs": 4}, "17 rows, and max_num_batched_tokens is 16"),
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
    ],
)
def test_what_v2_accepts(small_pair, with_triton, fields, options):
    create(small_pair[0], {"method": "mtad", "model": small_pair[1], **fields}, **options)


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
    assert config.options == MTADOptions(num_speculative_tokens=3, num_candidates=2)
    assert config.draft_length == 3
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


def save_llama(folder, vocab_size: int, swap: bool = False) -> None:
    config = LlamaConfig(**(SMALL | {"vocab_size": vocab_size}), architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    save_tokenizer(folder, swap)


SMALL = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
OTHER_ATTENTION = {
    "sliding-window attention": [
        MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=32, architectures=["MistralForCausalLM"]),
        Qwen2Config(
            **SMALL, num_key_value_heads=2, use_sliding_window=True, sliding_window=32, max_window_layers=1,
            architectures=["Qwen2ForCausalLM"],
        ),
    ],
    "an attention logit soft-cap": [
        Gemma2Config(
            **SMALL, num_key_value_heads=2, head_dim=32, layer_types=["full_attention"] * 2,
            architectures=["Gemma2ForCausalLM"],
        )
    ],
    "ALiBi": [
        BloomConfig(vocab_size=VOCAB_SIZE, hidden_size=64, n_layer=2, n_head=2, architectures=["BloomForCausalLM"])
    ],
    "multi-head latent attention (MLA)": [
        DeepseekV2Config(
            **SMALL, kv_lora_rank=32, q_lora_rank=32, qk_nope_head_dim=32, qk_rope_head_dim=32, v_head_dim=32,
            architectures=["DeepseekV2ForCausalLM"],
        )
    ],
    "recurrent or hybrid layers": [
        MambaConfig(vocab_size=VOCAB_SIZE, hidden_size=64, num_hidden_layers=2, architectures=["MambaForCausalLM"])
    ],
    "attention sinks": [
        GptOssConfig(
            **SMALL, num_key_value_heads=2, head_dim=32, layer_types=["full_attention"] * 2,
            architectures=["GptOssForCausalLM"],
        )
    ],
}  # fmt: skip


@pytest.mark.parametrize(("feature", "config"), [(f, c) for f, configs in OTHER_ATTENTION.items() for c in configs])
def test_a_draft_with_other_attention_is_refused_by_name(small_pair, tmp_path, feature, config):
    config.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    message = refusal(small_pair[0], {"method": "mtad", "model": str(tmp_path)})
    assert feature in message
    assert "full causal softmax" in message
