"""How mtad is asked for, and how it is refused: one sentence, before anything is loaded."""

import copy
import json
import pickle

import pytest
from transformers import (
    BloomConfig,
    DeepseekV2Config,
    Gemma3nTextConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
)
from vllm.config import SpeculativeConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

from tests.config.asking import create, parse, refusal
from tests.small_pair import VOCAB_SIZE, save_tokenizer
from vllm_mtad.config.attention import cache_config_of_the_draft
from vllm_mtad.config.candidate_schedule import with_candidate_rows
from vllm_mtad.config.options import OWN_FIELDS, MTADOptions


def test_defaults(small_pair):
    config = create(small_pair[0], {"method": "mtad", "model": small_pair[1]}).speculative_config
    assert config.method == "mtad"
    assert config.options == with_candidate_rows(MTADOptions(4, 4, 0.5, "beam_sample", "lossless", "joint"))
    assert config.num_speculative_tokens == 4
    assert config.lossy is True
    assert config.uses_draft_model()


def test_other_methods_have_vllms_own_class_and_take_no_mtad_fields(small_pair):
    """Also in other processes, which may not have the plugin."""
    target, draft = small_pair
    given = {"model": draft, "num_speculative_tokens": 3}
    stock = create(target, {"method": "draft_model", **given}).speculative_config
    assert type(stock) is type(pickle.loads(pickle.dumps(stock))) is SpeculativeConfig
    assert not hasattr(stock, "options")
    with pytest.raises(ValueError, match="beam_width"):
        create(target, {"method": "ngram", "num_speculative_tokens": 3, "beam_width": 8})


def test_an_mtad_configuration_can_be_sent_and_copied(small_pair):
    config = create(small_pair[0], {"method": "mtad", "model": small_pair[1], "beam_width": 3}).speculative_config
    for other in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
        assert type(other) is type(config)
        assert vars(other).keys() == vars(config).keys()
        assert (other.method, other.options, other.lossy) == ("mtad", config.options, True)
        assert other.compute_hash() == config.compute_hash()


def test_json_flag(small_pair):
    given = {"method": "mtad", "model": small_pair[1], "acceptance_threshold": 0.3, "draft_sampling": "beam_search"}
    options = parse(small_pair[0], "--speculative-config", json.dumps(given)).speculative_config.options
    assert options == with_candidate_rows(MTADOptions(acceptance_threshold=0.3, draft_sampling="beam_search"))


@pytest.mark.parametrize("spelled", ["beam_width", "beam-width"])
def test_dotted_flags(small_pair, spelled):
    flags = ["--speculative-config.method", "mtad", "--speculative-config.model", small_pair[1]]
    config = parse(small_pair[0], *flags, f"--speculative-config.{spelled}", "8").speculative_config
    assert config.options == with_candidate_rows(MTADOptions(beam_width=8))


def test_separate_flags(small_pair):
    flags = ["--spec-method", "mtad", "--spec-model", small_pair[1], "--spec-tokens", "3"]
    assert parse(small_pair[0], *flags).speculative_config.options == with_candidate_rows(
        MTADOptions(num_speculative_tokens=3)
    )


def test_bare_method_finds_the_bundled_draft(small_pair, tmp_path):
    """The bundled target names its draft in its config.json (`mtad_draft`)."""
    from benchmarks.pairs import MINISQL

    for config in (parse(str(MINISQL.target), "--speculative-config", "mtad"), create(str(MINISQL.target), "mtad")):
        assert config.speculative_config.method == "mtad"
        assert config.speculative_config.model == str(MINISQL.draft)


def test_bare_method_without_a_known_draft_names_the_flag(small_pair):
    message = refusal(small_pair[0], "mtad")
    assert "knows no draft model" in message
    assert "--spec-model" in message


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
    assert seen == [True, True]


def test_help_shows_the_fields():
    parser = FlexibleArgumentParser()
    EngineArgs.add_cli_args(parser)
    text = parser._option_string_actions["--speculative-config"].help
    for name in OWN_FIELDS:
        assert f"{name} (default" in text


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
    message = refusal(small_pair[0], {"method": "mtad", "model": small_pair[1], field: value})
    assert message.startswith(f"speculative_config.{field}={value!r} ")


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
    MambaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=64, num_hidden_layers=2, architectures=["MambaForCausalLM"]
    ).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    message = refusal(str(tmp_path), {"method": "mtad", "model": small_pair[1]})
    assert "The target" in message
    assert "recurrent or hybrid layers" in message


def save_with_window(folder, window: int) -> str:
    config = MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=window, architectures=["MistralForCausalLM"])
    config.save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


@pytest.mark.parametrize("models", [(32, None), (None, 32), (32, 48), (4, 512)])
def test_windows_are_accepted_and_each_model_has_its_own(small_pair, tmp_path, models):
    """vLLM keeps the target's, which the draft's layers would take."""
    names = ["target", "draft"]
    target, draft = (
        small_pair[at] if window is None else save_with_window(tmp_path / names[at], window)
        for at, window in enumerate(models)
    )
    config = create(target, {"method": "mtad", "model": draft, "num_speculative_tokens": 3}, load_format="dummy")
    of_draft = None if models[1] is None or models[1] > config.model_config.max_model_len else models[1]
    assert config.cache_config.sliding_window == models[0]
    assert cache_config_of_the_draft(config).sliding_window == of_draft


@pytest.mark.parametrize("has_window", [0, 1])
def test_a_draft_must_fit_in_a_window(small_pair, tmp_path, has_window):
    pair = list(small_pair)
    pair[has_window] = save_with_window(tmp_path, 4)
    message = refusal(pair[0], {"method": "mtad", "model": pair[1], "num_speculative_tokens": 4})
    assert "num_speculative_tokens=4 does not fit in the models' sliding window of 4 tokens" in message


def test_another_vocabulary(small_pair, tmp_path):
    save_llama(tmp_path, VOCAB_SIZE, swap=True)
    assert "another vocabulary" in refusal(small_pair[0], {"method": "mtad", "model": str(tmp_path)})


@pytest.mark.parametrize("padded", [0, 1])
def test_the_same_tokenizer_padded_to_another_size(small_pair, tmp_path, padded):
    save_llama(tmp_path, VOCAB_SIZE + 64)
    pair = list(small_pair)
    pair[padded] = str(tmp_path)
    config = create(pair[0], {"method": "mtad", "model": pair[1]}, load_format="dummy").speculative_config
    assert config.common_vocab_size == VOCAB_SIZE
    assert config.draft_lacks_ids is (padded == 0)


def test_vllms_own_draft_fields_keep_their_meaning(small_pair):
    given = {"method": "mtad", "model": small_pair[1], "max_model_len": 64, "revision": "main"}
    config = create(small_pair[0], {**given, "draft_tensor_parallel_size": 1}).speculative_config
    assert config.draft_model_config.max_model_len == 64
    assert config.draft_model_config.revision == "main"
    with pytest.raises(ValueError, match="quantization"):
        create(small_pair[0], {**given, "quantization": "no-such-format"})


def save_llama(folder, vocab_size: int, swap: bool = False) -> None:
    config = LlamaConfig(**(SMALL | {"vocab_size": vocab_size}), architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    save_tokenizer(folder, swap)


SMALL = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
OTHER_ATTENTION = {
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
    "KV sharing between layers": [
        Gemma3nTextConfig(
            **SMALL, num_key_value_heads=2, head_dim=32, vocab_size_per_layer_input=VOCAB_SIZE,
            architectures=["Gemma3nForCausalLM"],
        )
    ],
    "attention in chunks": [
        Llama4TextConfig(
            **SMALL, num_key_value_heads=2, head_dim=32, attention_chunk_size=32, num_local_experts=2,
            layer_types=["chunked_attention"] * 2, architectures=["Llama4ForCausalLM"],
        )
    ],
}  # fmt: skip


@pytest.mark.parametrize(("feature", "config"), [(f, c) for f, configs in OTHER_ATTENTION.items() for c in configs])
def test_a_draft_with_other_attention_is_refused_by_name(small_pair, tmp_path, feature, config):
    config.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    message = refusal(small_pair[0], {"method": "mtad", "model": str(tmp_path)})
    assert feature in message
    assert "causal softmax" in message
