"""This script embeds a small Llama into a larger Llama shape: the same function at the cost of a larger model.

    python -m benchmarks.pairs.widen SOURCE FOLDER --shape 0.5b

Speed can then be measured with the true agreement of a trained pair and the true cost of large models. The residual
stream is padded with zeros, which RMSNorm's weight and epsilon make up for; a head's rotary frequencies are placed
where the larger head has them, and its softmax scale goes into the queries; the heads, columns and layers that are
added hold random weights and end in zeros. The vocabulary stays as it is: its cost is not that of a large model's.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

_INERT_STD = 0.02
_SHARD_BYTES = 4 << 30


@dataclass(frozen=True)
class Shape:
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int


SHAPES = {
    "10m": Shape(320, 896, 8, 5, 1, 64),
    "50m": Shape(512, 1408, 16, 8, 4, 64),
    "0.5b": Shape(1536, 4096, 20, 24, 8, 64),
    "1b": Shape(2048, 8192, 16, 32, 8, 64),  # Llama-3.2-1B's
    "8b": Shape(4096, 14336, 32, 32, 8, 128),  # Llama-3.1-8B's
}


def widened_config(source: LlamaConfig, shape: Shape) -> LlamaConfig:
    """The source's configuration at `shape`; raises ValueError if the source does not fit into it."""
    for name in vars(shape):
        if getattr(shape, name) < getattr(source, name):
            raise ValueError(
                f"The shape's {name}={getattr(shape, name)} is less than the source's {getattr(source, name)}."
            )
    if shape.head_dim % source.head_dim:
        raise ValueError(f"The shape's head_dim={shape.head_dim} is no multiple of the source's {source.head_dim}.")
    if source.rope_parameters.get("rope_type", "default") != "default":
        raise ValueError(f"rope_type={source.rope_parameters['rope_type']!r} cannot be widened: use 'default'.")
    values = source.to_dict() | vars(shape)
    values["rms_norm_eps"] = source.rms_norm_eps * source.hidden_size / shape.hidden_size
    config = LlamaConfig(**values)
    _head_places(source, shape)
    return config


def widened_weights(
    source: dict[str, torch.Tensor], config: LlamaConfig, shape: Shape, seed: int = 0
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, float32 tensor) of the widened model, one after another.

    Args:
        source: weights of the small model; `config`: its configuration.
    """
    generator = torch.Generator().manual_seed(seed)
    padded_norm = (config.hidden_size / shape.hidden_size) ** 0.5

    def norm(weight: torch.Tensor | None) -> torch.Tensor:
        wide = torch.ones(shape.hidden_size)
        if weight is not None:
            wide[: config.hidden_size] = weight.float() * padded_norm
        return wide

    def inert(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * _INERT_STD

    def embedding(weight: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(weight.float(), (0, shape.hidden_size - config.hidden_size))

    yield "model.embed_tokens.weight", embedding(source["model.embed_tokens.weight"])
    for layer in range(shape.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        small = {k.removeprefix(prefix): v for k, v in source.items() if k.startswith(prefix)}
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}{name}.weight", norm(small.get(f"{name}.weight"))
        for name in ("gate_proj", "up_proj"):
            weight = inert(shape.intermediate_size, shape.hidden_size)
            if small:
                weight[: config.intermediate_size, : config.hidden_size] = small[f"mlp.{name}.weight"]
            yield f"{prefix}mlp.{name}.weight", weight
        down = torch.zeros(shape.hidden_size, shape.intermediate_size)
        if small:
            down[: config.hidden_size, : config.intermediate_size] = small["mlp.down_proj.weight"]
        yield f"{prefix}mlp.down_proj.weight", down
        for name, weight in _attention(small, config, shape, inert):
            yield f"{prefix}self_attn.{name}.weight", weight
    yield "model.norm.weight", norm(source["model.norm.weight"])
    if not config.tie_word_embeddings:
        yield "lm_head.weight", embedding(source["lm_head.weight"])


def _attention(small: dict[str, torch.Tensor], config: LlamaConfig, shape: Shape, inert) -> Iterator:  # type: ignore[no-untyped-def]
    """The four projections of a layer; of one that is added, `small` is empty."""
    size, wide_size, hidden = config.head_dim, shape.head_dim, config.hidden_size
    query, key, value = (
        inert(heads * wide_size, shape.hidden_size).view(heads, wide_size, -1)
        for heads in (shape.num_attention_heads, shape.num_key_value_heads, shape.num_key_value_heads)
    )
    out = torch.zeros(shape.hidden_size, shape.num_attention_heads, wide_size)
    if small:
        heads = {
            name: small[f"self_attn.{name}_proj.weight"].float().view(-1, size, hidden) for name in ("q", "k", "v")
        }
        small_out = small["self_attn.o_proj.weight"].float().view(hidden, -1, size)
        # Dimension i of the first half turns with dimension i of the second, at theta^(-2i / head_dim): in a larger
        # head that is dimension i * ratio.
        half = torch.arange(size // 2) * (wide_size // size)
        turning = torch.cat([half, half + wide_size // 2])
        scale = (wide_size / size) ** 0.5
        group = config.num_attention_heads // config.num_key_value_heads
        for head, (wide_head, wide_kv_head) in enumerate(_head_places(config, shape)):
            query[wide_head], key[wide_kv_head] = 0.0, 0.0
            query[wide_head][turning, :hidden] = heads["q"][head] * scale
            key[wide_kv_head][turning, :hidden] = heads["k"][head // group]
            value[wide_kv_head][:size, :hidden] = heads["v"][head // group]
            out[:hidden, wide_head, :size] = small_out[:, head]
    yield "q_proj", query.flatten(0, 1)
    yield "k_proj", key.flatten(0, 1)
    yield "v_proj", value.flatten(0, 1)
    yield "o_proj", out.flatten(1)


def _head_places(config: LlamaConfig, shape: Shape) -> list[tuple[int, int]]:
    """(query head, KV head) of the shape for each query head of the source.

    Where a KV head of the source has more query heads than one of the shape, several of the shape's are its copies.
    """
    group = config.num_attention_heads // config.num_key_value_heads
    wide_group = shape.num_attention_heads // shape.num_key_value_heads
    copies = -(-group // wide_group)
    if config.num_key_value_heads * copies > shape.num_key_value_heads:
        raise ValueError(
            f"The shape's num_key_value_heads={shape.num_key_value_heads} with {wide_group} query heads each cannot"
            f" hold the source's {config.num_key_value_heads} with {group} each."
        )
    places = []
    for head in range(config.num_attention_heads):
        kv_head, within = divmod(head, group)
        wide_kv_head = kv_head * copies + within // wide_group
        places.append((wide_kv_head * wide_group + within % wide_group, wide_kv_head))
    return places


def widen(source: Path, folder: Path, shape: Shape, dtype: torch.dtype = torch.bfloat16) -> None:
    """Writes the model in `source` at `shape` into `folder`, with its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    config = widened_config(model.config, shape)
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*token*"):
        shutil.copy(path, folder)
    config.dtype = dtype
    config.save_pretrained(folder)
    index: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}

    def save() -> None:
        file = f"model-{len(set(index.values())) + 1:05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(shard, file))
        shard.clear()

    for name, weight in widened_weights(model.state_dict(), model.config, shape):
        shard[name] = weight.to(dtype).contiguous()
        if sum(tensor.nbytes for tensor in shard.values()) > _SHARD_BYTES:
            save()
    save()
    content = {"metadata": {}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of a Llama checkpoint")
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    args = parser.parse_args()
    widen(args.source, args.folder, SHAPES[args.shape], getattr(torch, args.dtype))


if __name__ == "__main__":
    main()
