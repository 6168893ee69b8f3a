"""`write_model` writes models of given shapes to disk, without weights.

They are a config.json and a tokenizer of a few words, for `load_format="dummy"`. `spread_weights` gives them weights
with which logits and activations spread as a trained model's do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.pairs.widen import SHAPES, Shape

if TYPE_CHECKING:
    from torch import nn

MAX_POSITIONS = 40_960
_LOGIT_SPREAD = 3.0


@dataclass(frozen=True)
class ModelShape(Shape):
    """A `Shape`, and what a widened model keeps of its own."""

    vocab_size: int
    tie_word_embeddings: bool

    @property
    def kv_values_per_token(self) -> int:
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim


LLAMA_1B = ModelShape(**vars(SHAPES["1b"]), vocab_size=128_256, tie_word_embeddings=True)
LLAMA_8B = ModelShape(**vars(SHAPES["8b"]), vocab_size=128_256, tie_word_embeddings=False)
TINY_DRAFT = ModelShape(128, 256, 2, 4, 2, 32, 512, tie_word_embeddings=True)
TINY_TARGET = ModelShape(128, 256, 2, 4, 2, 32, 512, tie_word_embeddings=False)


def write_model(folder: Path, shape: ModelShape, dtype: str) -> str:
    """The path of a new model folder, for vLLM."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    config = LlamaConfig(
        **vars(shape),
        architectures=["LlamaForCausalLM"],
        max_position_embeddings=MAX_POSITIONS,
        dtype=dtype,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config.save_pretrained(folder)
    words = ["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(3, 100))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return str(folder)


def spread_weights(model: nn.Module) -> None:
    """Give a model such weights, in place. vLLM's dummy weights, all below 1e-3, give flat logits full of ties, on
    which a search for the top k takes another time than on real ones."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.fill_(1.0)
            elif "embed" in name or "lm_head" in name:
                weight.normal_(0.0, _LOGIT_SPREAD * weight.shape[1] ** -0.5)
            else:
                weight.normal_(0.0, weight.shape[1] ** -0.5)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights; tied ones count once."""
    return sum({weight.data_ptr(): weight.nbytes for weight in model.parameters()}.values())
