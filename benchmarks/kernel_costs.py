"""What a drafting round and a verification launch and move, counted without a GPU: `python -m benchmarks.kernel_costs`.

The parts that are ours run on given logits at the shape of Llama-3.2-1B, in Triton's interpreter
(`kernels_on_paper.counted` says how it counts). The models' own launches are not among them; their weights are in the
limit. Writes `costs.json` and `table.md` to a folder.
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
"""Of the draft; tokens of a prefix; the beam step that stands for all but the first, the middle one of gamma = 4."""
PARTS = ("first step", "plan", "layer", "step", "choice", "verification", "plan with FA3", "layer with FA3")

Cost = dict[str, Any]
"""{"launches": how many, "bytes": in all, "of": {name: how many}}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT)
    parser.add_argument("--requests", type=int, nargs="+", default=REQUESTS)
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
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "costs.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    (options.out / "table.md").write_text(table(rows))


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
    """Rows of one and the same, as a GPU's tensor: vLLM asks where the logits are."""
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
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}"


if __name__ == "__main__":
    main()
