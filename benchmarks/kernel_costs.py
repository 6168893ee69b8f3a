"""This script counts what a drafting round and a verification launch and move, without a GPU:
`python -m benchmarks.kernel_costs`.

The parts that are ours run on given logits at the shape of Llama-3.2-1B, in Triton's interpreter
(`kernels_on_paper.counted` says how it counts). The models' own launches are not among them; their weights are in the
limit. What the target does beside that for several candidates is counted at the shape of Llama-3.1-8B. Writes
`costs.json`, `trees.json` and `table.md` to a folder.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.kernels_on_paper.pieces import LIMITS, Shape

DEFAULT = Path(__file__).parent / "results" / "kernel-costs"
REQUESTS = (1, 4, 32, 256)
LAYERS, PREFIX, DEPTH = 16, 2048, 2
"""The draft's; tokens of a prefix; the beam step that stands for all but the first, the middle one of gamma = 4."""
PARTS = ("first step", "plan", "layer", "step", "choice", "verification", "plan with FA3", "layer with FA3")
TARGET_LAYERS, CANDIDATES = 32, 4
REQUESTS_WITH_TREES = (1, 4, 7, 32)
"""Of 17 rows each: seven are as many as the default `max_candidate_rows` lets have them."""
TREE_PARTS = ("layout and plan", "layer", "move", "verification", "layout with FA3", "layer with FA3")

Cost = dict[str, Any]
"""{"launches": how many, "bytes": in all, "of": {name: how many}}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT)
    parser.add_argument("--requests", type=int, nargs="+", default=REQUESTS)
    parser.add_argument("--requests-with-trees", type=int, nargs="+", default=REQUESTS_WITH_TREES)
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") != "1":
        os.execv(
            sys.executable, [sys.executable, "-m", "tests.interpreter", "-m", "benchmarks.kernel_costs", *sys.argv[1:]]
        )
    rows = []
    for num_reqs in options.requests:
        for name in LIMITS:
            rows.append({"requests": num_reqs, "truncation": name, "parts": count_parts(num_reqs, name)})
            print(json.dumps(rows[-1]), flush=True)
    trees = [{"requests": n, "parts": count_tree_parts(n)} for n in options.requests_with_trees]
    options.out.mkdir(parents=True, exist_ok=True)
    for name, found in (("costs.json", rows), ("trees.json", trees)):
        (options.out / name).write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n")
    (options.out / "table.md").write_text(table(rows) + tree_table(trees))


def count_parts(num_reqs: int, truncation: str, *, with_bytes: bool = True) -> dict[str, Cost]:
    """Each of `PARTS`, by name. Without bytes no kernel of Triton's runs, and the count takes no time."""
    import torch

    from benchmarks.kernels_on_paper.counted import counting
    from benchmarks.kernels_on_paper.pieces import Drafting, Verification

    shape, cpu, asked_for = Shape(max_num_reqs=num_reqs), torch.device("cpu"), LIMITS[truncation]
    beams, rows = num_reqs * shape.beam_width, num_reqs * (shape.gamma + 1)
    with counting(None):  # which leaves no fresh tensor as it is
        drafting, flash = (Drafting(shape, cpu, PREFIX, flash=flash) for flash in (False, True))
        verification = Verification(shape, cpu, asked_for)
        truncates, projections = drafting.limit(**asked_for), drafting.projections(num_reqs)
        batch, target = verification.batch([shape.gamma] * num_reqs), _logits(shape, rows)
    found: dict[str, Cost] = {}

    def count(part: str, rows: int, run: Callable[[], Any]) -> Any:
        found[part], result = _count(rows if with_bytes else None, run)
        return result

    def logits(rows: int) -> Any:
        return target[:rows]

    count("first step", num_reqs, lambda: drafting.grow(logits, 0, num_reqs, truncates))
    metadata = count("plan", num_reqs, lambda: drafting.plan(num_reqs))
    count("layer", num_reqs, lambda: drafting.attend(metadata(DEPTH), projections))
    count("step", beams, lambda: drafting.grow(logits, DEPTH, num_reqs, truncates))
    count("choice", num_reqs, lambda: drafting.choose(num_reqs, shape.gamma))
    count("verification", rows, lambda: verification.verify(target, batch))
    metadata_with_fa3 = count("plan with FA3", num_reqs, lambda: flash.plan(num_reqs))
    count("layer with FA3", num_reqs, lambda: flash.attend(metadata_with_fa3(DEPTH), projections))
    return found


def target_shape(num_reqs: int) -> Shape:
    """The shape of Llama-3.1-8B, with four candidates."""
    return Shape(head_size=128, max_num_reqs=num_reqs, num_candidates=CANDIDATES)


def count_tree_parts(num_reqs: int, *, with_bytes: bool = True) -> dict[str, Cost]:
    """Each of `TREE_PARTS`, by name, where every request has a whole tree and keeps another candidate."""
    import torch

    from benchmarks.kernels_on_paper.counted import counting
    from benchmarks.kernels_on_paper.pieces import Verification
    from benchmarks.kernels_on_paper.trees import Trees

    shape, cpu = target_shape(num_reqs), torch.device("cpu")
    with counting(None):
        trees, flash = (Trees(shape, cpu, PREFIX, TARGET_LAYERS, flash=flash) for flash in (False, True))
        drafts = [trees.num_nodes] * num_reqs
        verification, batch = Verification(shape, cpu), trees.batch(drafts)
        verified, projections = verification.batch(drafts), trees.projections(len(batch.positions))
        batch_with_fa3 = flash.batch(drafts)
        target = _logits(shape, len(batch.positions))
        trees.keep_another()
    found: dict[str, Cost] = {}

    def count(part: str, rows: int, run: Callable[[], Any]) -> Any:
        found[part], result = _count(rows if with_bytes else None, run)
        return result

    metadata = count("layout and plan", num_reqs, lambda: trees.lay_out(batch))
    count("layer", num_reqs, lambda: trees.attend(metadata, projections))
    count("move", num_reqs, lambda: trees.move(batch))
    count("verification", len(batch.positions), lambda: verification.verify(target, verified))
    _count(None, lambda: flash.lay_out(batch_with_fa3))  # whose plan is kept
    metadata_with_fa3 = count("layout with FA3", num_reqs, lambda: flash.lay_out(batch_with_fa3))
    count("layer with FA3", num_reqs, lambda: flash.attend(metadata_with_fa3, projections))
    return found


def _count(rows: int | None, run: Callable[[], Any]) -> tuple[Cost, Any]:
    """What `run` costs, and what it returns."""
    from benchmarks.kernels_on_paper.counted import counting
    from benchmarks.kernels_on_paper.pieces import on_an_h100, standing_in_for_flash_attention

    with counting(rows) as counted, on_an_h100(), standing_in_for_flash_attention(counted.add):
        result = run()
    names = [launch.name for launch in counted.launches]
    of = {name: names.count(name) for name in dict.fromkeys(names)}
    return {"launches": len(names), "bytes": counted.bytes, "of": of}, result


def _logits(shape: Any, rows: int) -> Any:
    """Logits whose rows are all the same, in a tensor that says it is on a GPU: vLLM asks where the logits are."""
    import torch

    class OnAGpu(torch.Tensor):
        device = torch.device("cuda", 0)

    row = torch.randn(1, shape.vocab_size, generator=torch.Generator().manual_seed(0)) * 4
    return row.to(shape.dtype).repeat(rows, 1).as_subclass(OnAGpu)


def round_of(parts: dict[str, Cost], figure: str, gamma: int = 4, reader: str = "") -> int:
    """A figure of a whole drafting round, without the draft model's own."""
    passes = gamma - 1
    layers = passes * LAYERS * parts["layer" + reader][figure] + parts["plan" + reader][figure]
    return parts["first step"][figure] + layers + passes * parts["step"][figure] + parts["choice"][figure]


def limits(num_reqs: int) -> dict[str, int]:
    """Bytes that must be moved: of a pass over the beams with its step, and of a verification's logits."""
    shape = Shape()
    row = shape.vocab_size * shape.dtype.itemsize
    prefix = LAYERS * 2 * PREFIX * shape.num_kv_heads * shape.head_size * shape.dtype.itemsize
    logits = num_reqs * shape.beam_width * row
    return {
        "weights": weights(),
        "prefixes": num_reqs * prefix,
        "logits": logits,
        "pass": weights() + num_reqs * prefix + 2 * logits,
        "verification": num_reqs * (shape.gamma + 1) * row,
    }


@functools.cache
def weights() -> int:
    """Bytes of the draft model's weights; its embedding, which is its head, counts once."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from benchmarks.gpu_checks.models import LLAMA_1B

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**vars(LLAMA_1B)), dtype=torch.bfloat16)
    return sum(parameter.nbytes for parameter in model.parameters())


HEADER = """# What a drafting round costs on paper

`python -m benchmarks.kernel_costs`. Llama-3.2-1B as the draft, bfloat16, 128,256 tokens, B = 4, gamma = 4, prefixes of
2048 tokens. Counted, not measured: nothing ran on a GPU. Launches of our parts alone, those of vLLM's truncation among
them; the draft model's own are not counted. Bytes as our programs load and store them, in MB (10^6).

- step: from the logits of all beams to the new beams. Its limit: the logits read once.
- attention: of 16 layers, in one pass. Its limit: the prefixes read once. With FA3: launches of its C++ as read.
- pass: weights, attention, logits written, and the step; the limit is weights, prefixes once, logits written and read.
- verification: from the target's logits, all rows, to accepted tokens. Its limit: the logits read once.
- round: all launches from the first step to the choice.
"""


def table(rows: Iterable[dict[str, Any]]) -> str:
    lines = [
        HEADER,
        "| requests | truncation | step: launches | MB | limit | attention: launches | with FA3 | MB | limit |"
        " pass: MB | over limit | verification: launches | MB | limit | round: launches | with FA3 |",
        "|" + "---|" * 16,
    ]
    for row in rows:
        parts, limit = row["parts"], limits(row["requests"])
        step, layer, verification = parts["step"], parts["layer"], parts["verification"]
        attention = LAYERS * layer["bytes"]
        of_pass = limit["weights"] + attention + limit["logits"] + step["bytes"]
        cells = [
            row["requests"],
            row["truncation"],
            step["launches"],
            _mb(step["bytes"]),
            _mb(limit["logits"]),
            LAYERS * layer["launches"],
            LAYERS * parts["layer with FA3"]["launches"],
            _mb(attention),
            _mb(limit["prefixes"]),
            _mb(of_pass),
            f"{of_pass / limit['pass']:.2f}",
            verification["launches"],
            _mb(verification["bytes"]),
            _mb(limit["verification"]),
            round_of(parts, "launches"),
            round_of(parts, "launches", reader=" with FA3"),
        ]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


TREE_HEADER = """
## Several candidates

The target's side: Llama-3.1-8B, C = 4 and gamma = 4, so 17 rows a request. Each keeps another candidate than the
chosen one. Beside vLLM's own launches, but for its attention, in whose place ours stand. No truncation.

- before: layout, and the plan of the prefixes' splits.
- attention: of 32 layers. Its limit: the prefixes read once.
- move: once. Its limit: keys and values of gamma tokens, read and written.
- verification: from the logits of all rows to accepted tokens. Its limit: the logits read once.
"""


def tree_limits(num_reqs: int) -> dict[str, int]:
    """Bytes that must be moved."""
    shape = target_shape(num_reqs)
    token = 2 * TARGET_LAYERS * shape.num_kv_heads * shape.head_size * shape.dtype.itemsize
    rows = num_reqs * (1 + shape.gamma * shape.num_candidates)
    return {
        "attention": num_reqs * PREFIX * token,
        "move": 2 * num_reqs * shape.gamma * token,
        "verification": rows * shape.vocab_size * shape.dtype.itemsize,
    }


def tree_table(rows: Iterable[dict[str, Any]]) -> str:
    lines = [
        TREE_HEADER,
        "| requests | before: launches | with FA3 | attention: launches | with FA3 | MB | limit | move: launches | MB |"
        " limit | verification: launches | MB | limit |",
        "|" + "---|" * 13,
    ]
    for row in rows:
        parts, limit = row["parts"], tree_limits(row["requests"])
        cells = [
            row["requests"],
            parts["layout and plan"]["launches"],
            parts["layout with FA3"]["launches"],
            TARGET_LAYERS * parts["layer"]["launches"],
            TARGET_LAYERS * parts["layer with FA3"]["launches"],
            _mb(TARGET_LAYERS * parts["layer"]["bytes"]),
            _mb(limit["attention"]),
            parts["move"]["launches"],
            _mb(parts["move"]["bytes"]),
            _mb(limit["move"]),
            parts["verification"]["launches"],
            _mb(parts["verification"]["bytes"]),
            _mb(limit["verification"]),
        ]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}"


if __name__ == "__main__":
    main()
