"""A random pair of small Llamas whose draft agrees with the target about as often as a real one does.

Untrained models give flat distributions on which nothing is ever accepted. Here the draft is the target's
first layers with a little noise on the weights, and the target's later layers are turned down, so that drafts
are accepted at every length, and longer prefixes sometimes pass after shorter ones failed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCAB_SIZE = 512
MAX_POSITIONS = 512
_DRAFT_NOISE = 0.08


def _config(num_layers: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def build_target() -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(_config(3)).float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0, 1 if "embed" in name else weight.shape[1] ** -0.5)
            if "q_proj" in name or "k_proj" in name:
                weight.mul_(2.0)  # attention must matter
            if "lm_head" in name:
                weight.mul_(3.5)
            if "layers.2." in name and ("o_proj" in name or "down_proj" in name):
                weight.mul_(0.3)
    return model.eval()


def build_draft(target: LlamaForCausalLM) -> LlamaForCausalLM:
    model = LlamaForCausalLM(_config(2)).float()
    weights = target.state_dict()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(weights[name])
            if weight.ndim == 2:
                weight.add_(torch.randn_like(weight) * weight.std() * _DRAFT_NOISE)
    return model.eval()


def save_tokenizer(folder: Path, swap: bool = False) -> None:
    """One word a token: `t5` is token 5. With `swap`, two words change places: another vocabulary."""
    words = ["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(3, VOCAB_SIZE))]
    if swap:
        words[10], words[11] = words[11], words[10]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def save_pair(folder: Path) -> tuple[Path, Path]:
    target = build_target()
    for name, model in (("target", target), ("draft", build_draft(target))):
        model.save_pretrained(folder / name)
        save_tokenizer(folder / name)
    return folder / "target", folder / "draft"


def random_prompts(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB_SIZE, (n,), generator=generator).tolist() for n in lengths]
