"""This script gives a bundled pair the cost of larger models, padded so that each computes what it did (`widen`).

python -m benchmarks.pairs.sizes minisql 0.5b FOLDER       a folder for `vllm-mtad demo --pair`
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from benchmarks.pairs import BUNDLED, FOLDER
from benchmarks.pairs.widen import SHAPES, widen
from vllm_mtad.tools.harness.pair import Pair

SIZES = {"50m": ("50m", "10m"), "0.5b": ("0.5b", "50m"), "8b": ("8b", "1b")}
"""Shapes of the target and of the draft."""
NUM_PROMPTS = 4
"""Prompts of the demo: models of this size are slow on a CPU."""


def padded(pair: Pair, size: str, folder: Path) -> Pair:
    """`pair` at a size of `SIZES`, written to `folder` unless it is there."""
    wide = Pair(folder / "target", folder / "draft")
    for source, path, shape in zip((pair.target, pair.draft), (wide.target, wide.draft), SIZES[size]):
        if not (Path(path) / "model.safetensors.index.json").exists():
            widen(Path(source), Path(path), SHAPES[shape])
    return wide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=BUNDLED)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    disable_progress_bar()
    args.folder.mkdir(parents=True, exist_ok=True)
    padded(BUNDLED[args.task], args.size, args.folder)
    shutil.copy(FOLDER / args.task / "prompts.jsonl", args.folder)
    asked = json.loads((FOLDER / args.task / "demo.json").read_text())
    target, draft = (shape.upper() for shape in SIZES[args.size])
    asked |= {"title": f"of these at the cost of a {target} target and a {draft} draft", "num_prompts": NUM_PROMPTS}
    (args.folder / "demo.json").write_text(json.dumps(asked | {"in_flight": [1], "rounds": 1}) + "\n")


if __name__ == "__main__":
    main()
