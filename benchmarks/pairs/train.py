"""This script trains one model of a bundled pair from nothing, on a CPU or a GPU.

    python -m benchmarks.pairs.tokenizer minisql OUT/tokenizer
    python -m benchmarks.pairs.train minisql target --tokenizer OUT/tokenizer --out OUT/target
    python -m benchmarks.pairs.train minisql target --tokenizer OUT/tokenizer --out OUT/target --cycle 1
    python -m benchmarks.pairs.train minisql draft  --tokenizer OUT/tokenizer --out OUT/draft

A cycle after the first starts from the weights that the one before saved, with other examples and a fresh
optimizer. Every batch is fresh: no example is seen twice. Muon drives the matrices of the layers, AdamW the embeddings,
the head and the norms.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.pairs.tasks import TASKS
from benchmarks.pairs.tokenizer import BOS_ID, EOS_ID, PAD_ID, VOCAB_SIZE

CHUNK = 1024
"""Examples that are sorted by length together, so that a batch holds little padding."""


@dataclass(frozen=True)
class Cycle:
    """The learning rate warms up over 20 steps, stays for `flat`, and falls linearly to zero."""

    num_steps: int
    peak: float = 1.0
    """Share of the recipe's learning rates."""
    flat: float = 0.5
    """Share of the steps before the rate falls."""

    def rate(self, step: int) -> float:
        return self.peak * min(1.0, (step + 1) / 20, (1 - step / self.num_steps) / max(1 - self.flat, 1e-9))


@dataclass(frozen=True)
class Recipe:
    task: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    tied: bool
    cycles: tuple[Cycle, ...]
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    batch_tokens: int = 4096
    prompt_weight: float = 0.1
    """Loss weight of a prompt token; a token of the completion has weight 1."""
    seed: int = 7
    names_draft: bool = False
    """config.json says that the draft's folder is beside this one."""

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            head_dim=self.hidden_size // self.num_heads,
            intermediate_size=self.intermediate_size,
            max_position_embeddings=1024,
            rms_norm_eps=1e-5,
            tie_word_embeddings=self.tied,
            bos_token_id=BOS_ID,
            eos_token_id=EOS_ID,
            pad_token_id=PAD_ID,
            **({"mtad_draft": "../draft"} if self.names_draft else {}),
        )


RECIPES = {
    ("minisql", "target"): Recipe(
        "minisql",
        256,
        8,
        4,
        2,
        704,
        tied=False,
        names_draft=True,
        cycles=(Cycle(5000), Cycle(2400, peak=0.35, flat=0.0), Cycle(900, peak=0.3, flat=0.0)),
    ),
    ("minisql", "draft"): Recipe("minisql", 160, 2, 5, 1, 448, tied=True, cycles=(Cycle(1200),), adam_lr=4e-3),
    ("tales", "target"): Recipe(
        "tales",
        192,
        6,
        3,
        1,
        512,
        tied=True,
        names_draft=True,
        cycles=(Cycle(2000, flat=1.0), Cycle(700, peak=0.6, flat=0.0)),
    ),
    ("tales", "draft"): Recipe("tales", 96, 2, 3, 1, 256, tied=True, cycles=(Cycle(180),), adam_lr=4e-3),
}


def batches(tokenizer: Tokenizer, recipe: Recipe, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (token ids [rows, length], loss weights [rows, length]) of at most `batch_tokens` each."""
    stream = TASKS[recipe.task](seed)
    shuffle = torch.Generator().manual_seed(seed)
    while True:
        examples = list(islice(stream, CHUNK))
        prompts = [e.ids for e in tokenizer.encode_batch([prompt for prompt, _ in examples])]
        answers = [
            e.ids for e in tokenizer.encode_batch([f" {text}" for _, text in examples], add_special_tokens=False)
        ]
        rows = sorted(zip(prompts, answers), key=lambda row: len(row[0]) + len(row[1]))
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in rows:
            length = len(row[0]) + len(row[1]) + 1
            if (len(groups[-1]) + 1) * length > recipe.batch_tokens:
                groups.append([])
            groups[-1].append(row)
        for at in torch.randperm(len(groups), generator=shuffle).tolist():
            yield _padded(groups[at], recipe.prompt_weight)


def _padded(group: list[tuple[list[int], list[int]]], prompt_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(p) + len(a) for p, a in group) + 1
    ids = torch.full((len(group), length), PAD_ID)
    weights = torch.zeros(len(group), length)
    for row, (prompt, answer) in enumerate(group):
        text = prompt + answer + [EOS_ID]
        ids[row, : len(text)] = torch.tensor(text)
        weights[row, 1 : len(prompt)] = prompt_weight
        weights[row, len(prompt) : len(text)] = 1.0
    return ids, weights


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """bfloat16 weights with the config that vLLM and transformers read."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.dtype = torch.bfloat16
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tied = model.config.tie_word_embeddings
    weights = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def train(recipe: Recipe, cycle: int, tokenizer: Tokenizer, folder: Path, device: str, compile: bool) -> None:
    """Run one cycle; write the model and the log of its losses to `folder`."""
    schedule, seed = recipe.cycles[cycle], recipe.seed + cycle
    torch.manual_seed(seed)
    if cycle == 0:
        model = LlamaForCausalLM(recipe.config())
    else:
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.to(device)
    in_layers = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in name)]
    optimizers = [
        torch.optim.Muon(in_layers, lr=recipe.muon_lr, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    rates = [torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate) for optimizer in optimizers]
    body = torch.compile(model.model, dynamic=True) if compile else model.model
    parameters = sum(p.numel() for p in model.parameters())
    start, seen, sums = time.time(), 0, torch.zeros(2)
    with (folder / f"training.{cycle}.jsonl").open("w") as log:
        log.write(json.dumps({"parameters": parameters, "recipe": asdict(recipe), "cycle": cycle}) + "\n")
        for step, (ids, weights) in enumerate(islice(batches(tokenizer, recipe, seed), schedule.num_steps), start=1):
            ids, weights = ids.to(device), weights.to(device)
            with torch.autocast(device, dtype=torch.bfloat16):
                hidden = body(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
                keep = weights[:, 1:] > 0
                logits = model.lm_head(hidden[keep])
            losses, kept = (
                torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][keep], reduction="none"),
                weights[:, 1:][keep],
            )
            ((losses * kept).sum() / kept.sum()).backward()
            torch.nn.utils.clip_grad_norm_(others, 1.0)
            for optimizer, optimizer_rate in zip(optimizers, rates):
                optimizer.step()
                optimizer_rate.step()
            model.zero_grad(set_to_none=True)
            seen += ids.numel()
            sums += torch.tensor([losses[kept == 1].mean().item(), losses[kept < 1].mean().item()])
            if step % 50 == 0:
                elapsed = time.time() - start
                record = {"step": step, "minutes": round(elapsed / 60, 2), "tokens": seen}
                record |= {
                    "completion_loss": round(sums[0].item() / 50, 4),
                    "prompt_loss": round(sums[1].item() / 50, 4),
                }
                log.write(json.dumps(record) + "\n")
                log.flush()
                sums.zero_()
            if step % 500 == 0:
                save_model(model, folder)
    save_model(model, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("role", choices=("target", "draft"))
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cycle", type=int, default=0, help="which of the recipe's annealing cycles")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="torch.compile the layers")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = RECIPES[args.task, args.role]
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    tokenizer.save_pretrained(args.out)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train(recipe, args.cycle, tokenizer.backend_tokenizer, args.out, device, args.compile)


if __name__ == "__main__":
    main()
