"""A widened model computes the same function: equal logits, at another shape."""

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.pairs import MINISQL
from benchmarks.pairs.widen import SHAPES, Shape, widen, widened_config
from vllm_mtad.algorithm.reference import hugging_face_model

SOURCE = {"vocab_size": 200, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2}
SOURCE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128}
WIDE = Shape(112, 144, 4, 8, 4, 64)


def save_source(folder, **values) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(SOURCE | values), rms_norm_eps=1e-3)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0, 0.2) if "norm" in name else weight.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    return model


@torch.inference_mode()
def largest_difference(one, other, vocab_size: int) -> float:
    ids = torch.randint(3, vocab_size, (2, 60), generator=torch.Generator().manual_seed(1))
    expected = one(ids).logits
    return ((other(ids).logits - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        ({}, WIDE),
        ({"tie_word_embeddings": True}, WIDE),
        ({"head_dim": 64}, WIDE),  # equal head size
        ({"head_dim": 32}, Shape(48, 80, 2, 4, 2, 128)),  # four times the head size alone
        ({"num_key_value_heads": 1}, Shape(64, 96, 3, 8, 4, 32)),  # a KV head is copied: 4 queries each into 2
        ({"num_key_value_heads": 4}, WIDE),
    ],
)
def test_equal_logits_in_float32(tmp_path, values, shape):
    source = save_source(tmp_path / "source", **values)
    widen(tmp_path / "source", tmp_path / "wide", shape, torch.float32)
    wide = hugging_face_model(tmp_path / "wide")
    assert wide.config.hidden_size == shape.hidden_size
    assert len(wide.model.layers) == shape.num_hidden_layers
    assert largest_difference(source, wide, SOURCE["vocab_size"]) < 2e-5


def test_what_is_added_is_not_zero_but_for_where_it_ends(tmp_path):
    """Zeros multiply at the same cost on a GPU, but draw less power; and a layer of zeros may be skipped one day."""
    save_source(tmp_path / "source")
    widen(tmp_path / "source", tmp_path / "wide", WIDE, torch.float32)
    weights = hugging_face_model(tmp_path / "wide").state_dict()
    for name in ("q_proj", "k_proj", "v_proj"):
        assert (weights[f"model.layers.3.self_attn.{name}.weight"] != 0).all()
    assert (weights["model.layers.3.mlp.gate_proj.weight"] != 0).all()
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        assert (weights[f"model.layers.3.{name}.weight"] == 0).all()


@pytest.mark.parametrize("path", [MINISQL.target, MINISQL.draft])
def test_the_bundled_pair_at_fifty_million(tmp_path, path):
    source = hugging_face_model(str(path))
    widen(path, tmp_path, SHAPES["50m"], torch.float32)
    wide = hugging_face_model(tmp_path)
    assert 40e6 < sum(p.numel() for p in wide.parameters()) < 60e6
    assert largest_difference(source, wide, source.config.vocab_size) < 1e-4
    assert getattr(wide.config, "mtad_draft", None) == getattr(source.config, "mtad_draft", None)
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == AutoTokenizer.from_pretrained(path).get_vocab()


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        (Shape(40, 80, 2, 4, 2, 32), "hidden_size=40"),
        (Shape(48, 80, 1, 4, 2, 32), "num_hidden_layers=1"),
        (Shape(48, 80, 2, 4, 2, 48), "head_dim=48"),
        (Shape(60, 80, 2, 12, 3, 32), "num_key_value_heads=3"),  # 2 KV heads of 5 queries need 4 of 4
    ],
)
def test_a_shape_that_cannot_hold_the_source_is_named(shape, named):
    values = {"num_attention_heads": 10, "hidden_size": 60} if "num_key_value_heads" in named else {}
    with pytest.raises(ValueError, match=named):
        widened_config(LlamaConfig(**(SOURCE | values)), shape)


@pytest.mark.parametrize(("name", "billions"), [("0.5b", 0.5), ("1b", 0.97), ("8b", 6.98)])
def test_presets_are_of_their_size(name, billions):
    """Without embeddings, which keep the small vocabulary."""
    shape = SHAPES[name]
    attention = 2 * shape.hidden_size * shape.head_dim * (shape.num_attention_heads + shape.num_key_value_heads)
    layer = attention + 3 * shape.hidden_size * shape.intermediate_size
    assert layer * shape.num_hidden_layers / 1e9 == pytest.approx(billions, rel=0.02)
