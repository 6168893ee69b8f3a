"""Which targets are accepted: by what their configuration says, before anything is loaded."""

import pytest
from transformers import BartConfig, DeepseekV2Config, Gemma3nTextConfig, JambaConfig, MambaConfig

from tests.config.asking import create, refusal
from tests.small_models import SMALL, gemma3, qwen2_audio, qwen3_moe, qwen3_next
from tests.small_pair import VOCAB_SIZE, save_tokenizer


def save(folder, config, architecture: str) -> str:
    config.architectures = [architecture]
    config.save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


@pytest.fixture
def ask(small_pair, tmp_path):
    """(target, the mapping that asks for mtad with `small_pair`'s draft)."""

    def given(config, architecture: str, **fields):
        return save(tmp_path / "target", config, architecture), {"method": "mtad", "model": small_pair[1], **fields}

    return given


GATED_DELTA_NETS = (qwen3_next(4), "Qwen3NextForCausalLM")
HYBRID = {"dtype": "bfloat16", "enable_prefix_caching": False}


def test_gated_delta_nets_are_accepted_on_v2(ask, with_triton):
    create(*ask(*GATED_DELTA_NETS), **HYBRID)


def test_gated_delta_nets_keep_one_texts_state(ask, with_triton):
    said = refusal(*ask(*GATED_DELTA_NETS, num_candidates=2), **HYBRID)
    assert "num_candidates=2 cannot be used with the target" in said
    assert "(recurrent or hybrid layers): give 1" in said


def test_gated_delta_nets_are_refused_on_v1(ask, monkeypatch):
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    said = refusal(*ask(*GATED_DELTA_NETS), **HYBRID)
    assert "has recurrent or hybrid layers, which cannot be combined" in said
    assert "on Model Runner V1 (what it keeps of a text does not fit into the draft's KV group)" in said
    assert said.endswith("it accepts softmax attention, full or in windows.")


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        (
            JambaConfig(hidden_size=64, num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1),
            "JambaForCausalLM",
        ),
        (MambaConfig(hidden_size=64, num_hidden_layers=2), "MambaForCausalLM"),
    ],
)
def test_other_recurrent_layers_are_refused(ask, with_triton, config, architecture):
    """Of Mamba's first kind vLLM keeps no state from before a rejected token."""
    config.vocab_size = VOCAB_SIZE
    said = refusal(*ask(config, architecture), **HYBRID)
    assert "has recurrent or hybrid layers, which cannot be combined" in said
    assert said.endswith("it accepts softmax attention, full or in windows, and gated delta nets beside it.")


def test_trees_need_attention_that_is_ours_on_v2(ask, with_triton):
    sizes = {"num_key_value_heads": 2, "head_dim": 32, "vocab_size_per_layer_input": VOCAB_SIZE, "num_hidden_layers": 2}
    config = Gemma3nTextConfig(**(SMALL | sizes), vocab_size=VOCAB_SIZE)
    create(*ask(config, "Gemma3nForCausalLM"))
    said = refusal(*ask(config, "Gemma3nForCausalLM", num_candidates=2))
    assert "num_candidates=2 cannot be used with the target" in said
    assert "(KV sharing between layers): give 1" in said


def test_windows_and_trees_on_v1_need_a_draft_of_the_same_kv_heads(ask, monkeypatch):
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    target = gemma3(3)
    create(*ask(target, "Gemma3ForCausalLM", num_candidates=2))
    target.num_key_value_heads = 4
    create(*ask(target, "Gemma3ForCausalLM"))
    said = refusal(*ask(target, "Gemma3ForCausalLM", num_candidates=2))
    assert "(on V1 its windows ask for a draft of its KV heads): give 1" in said


def test_latent_attention_is_refused(ask, with_triton):
    sizes = {"kv_lora_rank": 32, "q_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32}
    config = DeepseekV2Config(**(SMALL | {"head_dim": 32}), **sizes, vocab_size=VOCAB_SIZE, num_hidden_layers=2)
    assert "multi-head latent attention (MLA)" in refusal(*ask(config, "DeepseekV2ForCausalLM"))


def test_an_encoder_decoder_is_refused(ask):
    config = BartConfig(vocab_size=VOCAB_SIZE, d_model=64, encoder_layers=2, decoder_layers=2)
    assert "an encoder-decoder target cannot be combined" in refusal(*ask(config, "BartForConditionalGeneration"))


def test_replicas_of_a_mixture_of_experts_are_refused(ask):
    said = refusal(*ask(qwen3_moe(2), "Qwen3MoeForCausalLM"), data_parallel_size=2)
    assert "data_parallel_size=2 with a mixture of experts cannot be combined" in said


@pytest.mark.parametrize("options", [{}, {"language_model_only": True}])
def test_a_target_that_reads_more_than_text_is_accepted(ask, options):
    config = create(*ask(qwen2_audio(), "Qwen2AudioForConditionalGeneration"), **options)
    assert config.speculative_config.draft_lacks_ids, "what stands for a sound may be past the vocabulary"
