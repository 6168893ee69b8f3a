"""This benchmark measures what a large vocabulary costs an iteration, on its own, without models.

    python -m benchmarks.vocabulary [--json FILE]

The bundled pairs have 1,024 tokens, Llama 3 has 128,256, and padding a vocabulary cannot be made inert. So the parts of
an iteration that grow with it are run by themselves on made-up logits, with the runners' own code: V1's on a CPU, V2's
kernels on a GPU. There the beams and the draft's heads of an engine are in CUDA graphs and here they are not: read
`device_median_ms`. A CPU must have nothing else to do: where torch's threads wait for a core, every operator costs a
time slice. LM heads are plain matrix products in bfloat16; requests sample at T = 1, top-k 10, top-p 0.9.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu_checks.timing import Times
from benchmarks.vocabulary_parts import KernelParts, Parts, Shape, TorchParts, vanilla_right_on_a_cpu
from vllm_mtad.config.options import MTADOptions

VOCAB_SIZES = (1024, 128256)
LLAMA_3 = {"target": 4096, "draft": 2048}
"""Hidden sizes of Llama-3.1-8B and Llama-3.2-1B."""
REPEATS, WARM_UPS = 20, 2


@dataclass(frozen=True)
class Piece:
    """`rows`: of logits in one iteration, in `calls` calls; `method` is "both" where the two do the same."""

    part: str
    method: str
    calls: int
    rows: int
    run: Callable[[], Any]


def pieces_of(
    shape: Shape, hidden_sizes: dict[str, int], device: torch.device, dtype: torch.dtype, runner: str
) -> list[Piece]:
    """What of an iteration grows with the vocabulary."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=device, dtype=dtype)

    heads = {model: normal(shape.vocab_size, size) for model, size in hidden_sizes.items()}
    target_hidden, target = (
        normal(shape.target_rows, hidden_sizes["target"]),
        normal(shape.target_rows, shape.vocab_size),
    )
    parts: Parts = KernelParts(shape, target * 3) if runner == "V2" else TorchParts(shape, target * 3)
    draw = {"mtad": parts.mtad_draw, "draft_model": parts.vanilla_draw}
    acceptance = {"mtad": parts.mtad_acceptance, "draft_model": parts.vanilla_acceptance}

    def head(model: str, hidden: list[torch.Tensor]) -> Callable[[], Any]:
        return lambda: [linear(rows, heads[model]) for rows in hidden]

    found = [Piece("target_head", "both", 1, shape.target_rows, head("target", [target_hidden]))]
    for method, rows in shape.draft_rows.items():
        hidden = [normal(n, hidden_sizes["draft"]) for n in rows]
        logits = [normal(n, shape.vocab_size) * 3 for n in rows]
        found += [
            Piece("draft_head", method, shape.gamma, sum(rows), head("draft", hidden)),
            Piece("draft_draw", method, shape.gamma, sum(rows), _call(draw[method], logits)),
            Piece("acceptance", method, 1, shape.target_rows, _call(acceptance[method], target * 3)),
        ]
    return found


def _call(function: Callable[[Any], Any], argument: Any) -> Callable[[], Any]:
    return lambda: function(argument)


@torch.inference_mode()
def measure_vocabulary(
    hidden_sizes: dict[str, int],
    gamma: int,
    beam_width: int,
    requests: int,
    device: str,
    vocab_sizes: Sequence[int] = VOCAB_SIZES,
    *,
    repeats: int = REPEATS,
    dtype: torch.dtype = torch.bfloat16,
    runner: str | None = None,
) -> list[dict[str, Any]]:
    """A row for each part, method and vocabulary; all take turns.

    Args:
        hidden_sizes: of the "target" and the "draft".
        runner: "V1" (plain torch) or "V2" (Triton kernels); by default the one that mtad runs on with this device.

    Returns:
        Rows of vocab_size, part (target_head, draft_head, draft_draw, acceptance), method (mtad, draft_model, or both),
        requests, calls and rows of logits per iteration, launches (kernels on a GPU, else torch operators that are not
        views), median_ms and quartiles_ms of an iteration's share, the host's part included, device_median_ms (on a
        GPU: queued behind other work), runner and threads (torch's, on the host).
    """
    on, runner = torch.device(device), runner or ("V2" if device.startswith("cuda") else "V1")
    shapes = [Shape(vocab_size, gamma, beam_width, requests) for vocab_size in vocab_sizes]
    with vanilla_right_on_a_cpu(on, runner):
        pieces = [(s, piece) for s in shapes for piece in pieces_of(s, hidden_sizes, on, dtype, runner)]
        times = _time([piece.run for _, piece in pieces], on, repeats)
        launches = [_count_launches(piece.run, on) for _, piece in pieces]  # last: a profiler slows what it looked at
    return [
        {
            "vocab_size": shape.vocab_size,
            "part": piece.part,
            "method": piece.method,
            "requests": requests,
            "calls": piece.calls,
            "rows": piece.rows,
            "launches": count,
            **taken,
            "runner": runner,
            "threads": torch.get_num_threads(),
        }
        for (shape, piece), taken, count in zip(pieces, times, launches)
    ]


def _time(functions: list[Callable[[], Any]], device: torch.device, repeats: int) -> list[dict[str, Any]]:
    if device.type == "cuda":
        on_device = [Times() for _ in functions]
        for repeat in range(-WARM_UPS, repeats):
            for function, times in zip(functions, on_device):
                for behind in (False, True):
                    times.time(function, repeat >= 0, behind)
        summaries = [times.summary() for times in on_device]
        return [_quartiles(s["ms"]) | {"device_median_ms": s["device_ms"][1]} for s in summaries]
    taken: list[list[float]] = [[] for _ in functions]
    for repeat in range(-WARM_UPS, repeats):
        for function, own in zip(functions, taken):
            began = time.perf_counter()
            function()
            if repeat >= 0:
                own.append((time.perf_counter() - began) * 1e3)
    return [
        _quartiles(statistics.quantiles(own, n=4, method="inclusive")) | {"device_median_ms": None} for own in taken
    ]


def _quartiles(values: list[float]) -> dict[str, Any]:
    return {"median_ms": values[1], "quartiles_ms": [values[0], values[2]]}


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def _count_launches(function: Callable[[], Any], device: torch.device) -> int:
    if device.type != "cuda":
        with _Operators() as operators:
            function()
        return operators.count
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize()
    return sum(event.count for event in profiler.key_averages() if event.self_device_time_total > 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gamma", type=int, default=MTADOptions.num_speculative_tokens)
    parser.add_argument("--beam-width", type=int, default=MTADOptions.beam_width)
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--json", type=Path, help="also write the rows, with what they were measured on")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for n in args.requests:
        rows += measure_vocabulary(LLAMA_3, args.gamma, args.beam_width, n, args.device, repeats=args.repeats)
    print(f"{'vocabulary':>10}  {'part':<12}{'method':<12}{'requests':>8}{'rows':>6}{'launches':>9}", end="")
    print(f"{'median ms':>11}  quartiles")
    for row in rows:
        low, high = row["quartiles_ms"]
        print(
            f"{row['vocab_size']:>10}  {row['part']:<12}{row['method']:<12}{row['requests']:>8}{row['rows']:>6}"
            f"{row['launches']:>9}{row['median_ms']:>11.3f}  {low:.3f} to {high:.3f}"
        )
    if args.json is not None:
        from vllm_mtad.tools.harness.machine import command_of, describe_machine

        machine = describe_machine(command_of("benchmarks.vocabulary"), args.device)
        args.json.write_text(json.dumps({"machine": machine, "hidden_sizes": LLAMA_3, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
