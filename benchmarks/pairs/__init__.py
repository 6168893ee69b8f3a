"""The bundled pairs are each a small target and a smaller draft with the same tokenizer, for one generated task.

A pair's folder holds its models (`target`, `draft`), its task (`task.py`), held-out prompts (`prompts.jsonl`), what
judges an answer (`check.py`), and what `vllm-mtad demo` does with it (`demo.json`). `tokenizer` and `train` made the
models, `evaluate` measures those of MiniSQL, `prompts` writes the prompts, and `widen` gives a model the cost of a
larger one.
"""

from __future__ import annotations

from pathlib import Path

from vllm_mtad.tools.harness.pair import Pair

FOLDER = Path(__file__).parent
BUNDLED = {task: Pair(FOLDER / task / "target", FOLDER / task / "draft") for task in ("minisql", "tales")}
MINISQL, TALES = BUNDLED["minisql"], BUNDLED["tales"]
