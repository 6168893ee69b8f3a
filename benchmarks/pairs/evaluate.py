"""This script measures how good a pair is: execution accuracy of both models, greedy and sampled.

    python -m benchmarks.pairs.evaluate --split held_out --num-examples 400

It uses Hugging Face only. `validation` is the split to look at while changing the recipe; `held_out` is for the model
card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.pairs import MINISQL
from benchmarks.pairs.minisql.task import Example, evaluation_examples, is_correct

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled_T1": {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0},
    "sampled_T1_top_k10_top_p0.9": {"do_sample": True, "temperature": 1.0, "top_k": 10, "top_p": 0.9},
}
BATCH = 50


@torch.inference_mode()
def complete(folder: Path, examples: list[Example], way: dict[str, Any], seed: int = 0) -> list[str]:
    """One completion of each example's prompt."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(seed)
    texts: list[str] = []
    for at in range(0, len(examples), BATCH):
        inputs = tokenizer([e.prompt for e in examples[at : at + BATCH]], return_tensors="pt", padding=True)
        output = model.generate(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=72, **way
        )
        texts += tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return texts


def execution_accuracy(examples: list[Example], texts: list[str]) -> float:
    return sum(is_correct(e, t) for e, t in zip(examples, texts)) / len(examples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=["validation", "held_out"], default="validation")
    parser.add_argument("--num-examples", type=int, default=400)
    parser.add_argument("--target", type=Path, default=MINISQL.target)
    parser.add_argument("--draft", type=Path, default=MINISQL.draft)
    args = parser.parse_args()
    examples = evaluation_examples(args.split, args.num_examples)
    for name, folder in (("target", args.target), ("draft", args.draft)):
        accuracies = {way: execution_accuracy(examples, complete(folder, examples, WAYS[way])) for way in WAYS}
        print(json.dumps({"model": name, "split": args.split, "num_examples": len(examples), **accuracies}))


if __name__ == "__main__":
    main()
