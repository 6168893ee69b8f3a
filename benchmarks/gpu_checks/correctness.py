"""This check compares engines on the bundled pair with the slow reference and with each other.

Every engine runs once, in its own process, and the checks compare what came back. Where floating-point numbers are the
same up to rounding, text may part at a near tie: a margin below `NEAR_TIE` in float32, and in bfloat16 up to a tenth of
the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_checks.report import Report
from benchmarks.gpu_checks.subprocesses import Outcome, run_task

NEAR_TIE = {"cuda": 1e-4, "cpu": 1e-5}
BFLOAT16_SHARE = 0.9
ALL_KINDS = ("greedy", "sampled", "truncated")


@dataclass(frozen=True)
class Size:
    count: int
    """Prompts; the reference, which is slow, takes the first `reference_count`."""
    reference_count: int
    max_tokens: int
    num_speculative_tokens: int
    beam_width: int
    options: dict[str, Any]


FULL = Size(
    24,
    12,
    24,
    4,
    4,
    {
        "max_model_len": 512,
        "max_num_seqs": 8,
        "kv_cache_memory_bytes": 1 << 30,
        "gpu_memory_utilization": 0.3,  # of which nothing is taken; so much must be free
    },
)
TINY = Size(3, 3, 8, 3, 2, {"max_model_len": 192, "max_num_seqs": 4, "block_size": 32, "enforce_eager": True})
SCHEDULE = [[1, 4, 4], [5, 8, 1]]


@dataclass(frozen=True)
class Engine:
    kinds: tuple[str, ...]
    mtad: dict[str, Any] | None = field(default_factory=dict)
    """None: the target alone."""
    dtype: str = "float32"
    graphs: bool = True
    as_started: bool = False
    """As `vllm serve` starts one: models compiled, memory and graphs profiled, backends chosen by vLLM."""
    options: dict[str, Any] = field(default_factory=dict)


FLOAT32 = {"attention_backend": "TRITON_ATTN"}  # FlashAttention has half precision only
FLASH = {"attention_backend": "FLASH_ATTN"}
CANDIDATES = {"num_candidates": 4, "max_candidate_rows": 256}  # room for trees in every batch
ENGINES = {
    "joint": Engine(("greedy",), {"greedy": "joint"}, options=FLOAT32),
    "float32": Engine(ALL_KINDS, options=FLOAT32),
    "alone": Engine(("greedy",), None, options=FLOAT32),
    "schedule": Engine(("greedy",), {"num_speculative_tokens_per_batch_size": SCHEDULE}, options=FLOAT32),
    "float32_eager": Engine(ALL_KINDS, graphs=False, options=FLOAT32),
    "float32_sync": Engine(ALL_KINDS, options={"async_scheduling": False} | FLOAT32),
    "candidates_joint": Engine(("greedy",), CANDIDATES | {"greedy": "joint"}, options=FLOAT32),
    "candidates": Engine(ALL_KINDS, CANDIDATES, options=FLOAT32),
    "candidates_eager": Engine(ALL_KINDS, CANDIDATES, graphs=False, options=FLOAT32),
    "candidates_bfloat16": Engine(ALL_KINDS, CANDIDATES, dtype="bfloat16", options=FLASH),
    "candidates_bfloat16_eager": Engine(ALL_KINDS, CANDIDATES, dtype="bfloat16", graphs=False, options=FLASH),
    "bfloat16": Engine(ALL_KINDS, dtype="bfloat16", options=FLASH),
    "bfloat16_eager": Engine(ALL_KINDS, dtype="bfloat16", graphs=False, options=FLASH),
    "bfloat16_default": Engine(ALL_KINDS, dtype="bfloat16", as_started=True),
    "bfloat16_triton": Engine(ALL_KINDS, dtype="bfloat16", options={"attention_backend": "TRITON_ATTN"}),
}
TINY_ENGINES = {"joint": Engine(("greedy",), {"greedy": "joint"}, graphs=False)}
REFERENCES = {"reference": 1, "reference_candidates": CANDIDATES["num_candidates"]}
"""Their numbers of candidates."""


def _llm_options(engine: Engine, size: Size) -> dict[str, Any]:
    options: dict[str, Any] = (
        {"dtype": engine.dtype, "seed": 0, "use_tqdm_on_load": False} | size.options | engine.options
    )
    if not engine.graphs:
        return options | {"enforce_eager": True}
    if engine.as_started:
        return {name: value for name, value in options.items() if name != "kv_cache_memory_bytes"}
    # Batches of every size have graphs of exactly their size: the target's row and a draft's, the draft's one more.
    candidates = (engine.mtad or {}).get("num_candidates", 1)
    nodes = {size.num_speculative_tokens, size.num_speculative_tokens * candidates}
    sizes = {(n + own) * reqs for n in nodes for own in (1, 2) for reqs in range(1, options["max_num_seqs"] + 1)}
    mode = "FULL" if candidates == 1 else "FULL_DECODE_ONLY"
    graphs = {"mode": 0, "cudagraph_mode": mode, "cudagraph_capture_sizes": sorted(sizes)}
    return options | {"compilation_config": graphs}


def _run_engine(name: str, engine: Engine, size: Size, logs: Path, limit: float) -> Outcome:
    widths = {"num_speculative_tokens": size.num_speculative_tokens, "beam_width": size.beam_width}
    arguments = {
        "mtad": None if engine.mtad is None else widths | engine.mtad,
        "kinds": engine.kinds,
        "count": size.count,
        "max_tokens": size.max_tokens,
        "options": _llm_options(engine, size),
    }
    # Triton multiplies float32 as TF32 unless told otherwise, with three digits.
    environment = {"TRITON_F32_DEFAULT": "ieee"} if engine.dtype == "float32" else {}
    return run_task("engine", arguments, logs / f"engine_{name}.log", limit, environment)


def _outcomes(
    engines: dict[str, Engine], run_one: Callable[[str], Outcome], pool: Executor
) -> Iterator[tuple[str, Outcome]]:
    """What became of each engine; those that measure memory run last, one by one."""
    together = [name for name, engine in engines.items() if not engine.as_started]
    for group in (together, *([name] for name, engine in engines.items() if engine.as_started)):
        yield from zip(group, pool.map(run_one, group))


def run(report: Report, device: str, tiny: bool, limit: float) -> None:
    """The reference on the CPU, beside it the engines, two at a time on a GPU; then every check.

    An engine as started by default measures how much memory is free, so it has the GPU for itself.
    """
    size, engines = (TINY, TINY_ENGINES) if tiny else (FULL, ENGINES)
    references = {"reference": 1} if tiny else REFERENCES
    reference_arguments = {
        "num_speculative_tokens": size.num_speculative_tokens,
        "beam_width": size.beam_width,
        "count": size.reference_count,
        "max_tokens": size.max_tokens,
    }
    found: dict[str, Any] = {}

    def run_one(name: str) -> Outcome:
        return _run_engine(name, engines[name], size, report.logs, limit)

    with ThreadPoolExecutor(1) as beside, ThreadPoolExecutor(2 if device == "cuda" else 1) as pool:
        expected = {
            name: beside.submit(
                run_task,
                "reference",
                reference_arguments | {"num_candidates": candidates},
                report.logs / f"{name}.log",
                limit,
            )
            for name, candidates in references.items()
        }
        for name, outcome in _outcomes(engines, run_one, pool):
            found[name] = outcome.result
            facts = outcome.result["facts"] if outcome.result else None
            report.add("correctness", engine=name, seconds=outcome.seconds, facts=facts, error=outcome.error)
    for name, running in expected.items():
        if (outcome := running.result()).error:
            report.add("correctness", engine=name, seconds=outcome.seconds, error=outcome.error)
        found[name] = outcome.result
    for check, (needed, function) in (TINY_CHECKS if tiny else CHECKS).items():
        if missing := [name for name in needed if found[name] is None]:
            report.add("correctness", check=check, passed=False, detail=f"did not run: {', '.join(missing)}")
        else:
            try:
                passed, detail = function(*(found[name] for name in needed), device)
            except Exception as error:  # an engine did not say what the check asks for
                passed, detail = False, {"error": repr(error)}
            report.add("correctness", check=check, passed=passed, detail=detail)


# -- checks: each takes what its engines returned and the device, and returns (passed, detail) ------------------------

Verdict = tuple[bool, dict[str, Any]]


def _joint_equals_reference(engine: dict, reference: list, device: str) -> Verdict:
    pairs = list(zip(engine["tokens"]["greedy"], reference))
    certain = [(got, r["tokens"]) for got, r in pairs if r["smallest_margin"] > NEAR_TIE[device]]
    detail = {
        "requests": len(pairs),
        "certain": len(certain),
        "equal": sum(got == expected for got, expected in certain),
        "accepted_per_draft": round(_mean([n for r in reference for n in r["accepted"]]), 3),
        "first_differences": [_first_difference(got, r["tokens"]) for got, r in pairs],
    }
    return detail["equal"] == len(certain) >= len(pairs) / 2, detail


def _lossless_equals_target_alone(engine: dict, alone: dict, device: str) -> Verdict:
    """Equal, but where the target itself is near a tie at the first difference."""
    differing = []
    for got, expected, margins in zip(
        engine["tokens"]["greedy"], alone["tokens"]["greedy"], alone["margins"]["greedy"]
    ):
        if (at := _first_difference(got, expected)) is not None:
            differing.append({"at": at, "margin": margins[at] if at < len(margins) else None})
    near_ties = [d for d in differing if d["margin"] is not None and d["margin"] < NEAR_TIE[device]]
    total = len(alone["tokens"]["greedy"])
    return differing == near_ties and len(near_ties) <= total / 4, {"requests": total, "differing": differing}


def _shares(one: dict, other: dict) -> dict[str, float]:
    """By kind, the share of requests whose tokens are all equal."""
    kinds = one["tokens"].keys() & other["tokens"].keys()
    return {k: round(_mean([a == b for a, b in zip(one["tokens"][k], other["tokens"][k])]), 4) for k in sorted(kinds)}


def _replayed(engine: dict) -> bool:
    return all(engine["facts"][name]["replays"] > 0 for name in ("first_pass_graphs", "beam_graphs"))


def _graphs_equal_eager_float32(graphs: dict, eager: dict, device: str) -> Verdict:
    shares = _shares(graphs, eager)
    return min(shares.values()) == 1.0 and _replayed(graphs), {"shares": shares, "graphs_replayed": _replayed(graphs)}


def _graphs_equal_eager_bfloat16(graphs: dict, eager: dict, device: str) -> Verdict:
    shares, replayed = _shares(graphs, eager), _replayed(graphs)
    return min(shares.values()) >= BFLOAT16_SHARE and replayed, {"shares": shares, "graphs_replayed": replayed}


def _default_start_equals_eager(default: dict, eager: dict, device: str) -> Verdict:
    """Compiled models round elsewhere, which sampling shows more than greedy decoding."""
    shares, modes = _shares(default, eager), default["facts"]["first_passes"]
    replayed = _replayed(default) and modes.get("PIECEWISE", 0) > 0
    return shares["greedy"] >= BFLOAT16_SHARE and replayed, {"shares": shares, "first_passes": modes}


def _async_equals_sync(asynchronous: dict, synchronous: dict, device: str) -> Verdict:
    on, off = (engine["facts"]["async_scheduling"] for engine in (asynchronous, synchronous))
    shares = _shares(asynchronous, synchronous)
    return on is True and off is False and min(shares.values()) == 1.0, {"default": on, "shares": shares}


def _backends_agree(flash: dict, triton: dict, device: str) -> Verdict:
    shares = _shares(flash, triton)
    backends = [engine["facts"]["draft_attention"] for engine in (flash, triton)]
    as_asked = backends == [["FLASH_ATTN"], ["TRITON_ATTN"]]
    return min(shares.values()) >= BFLOAT16_SHARE and as_asked, {"shares": shares, "draft_attention": backends}


def _and_others_are_kept(check: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """The same check, which also fails if the engine never kept another candidate than the chosen one."""

    def checked(engine: dict, other: Any, device: str) -> Verdict:
        passed, detail = check(engine, other, device)
        kept = engine["facts"]["other_candidates_kept"]
        return passed and kept > 0, detail | {"other_candidates_kept": kept}

    return checked


CHECKS: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
    "joint greedy equals the reference (float32)": (("joint", "reference"), _joint_equals_reference),
    "lossless greedy equals the target alone (float32)": (("float32", "alone"), _lossless_equals_target_alone),
    "a schedule of draft lengths equals the target alone (float32)": (
        ("schedule", "alone"),
        _lossless_equals_target_alone,
    ),
    "several candidates: joint greedy equals the reference (float32)": (
        ("candidates_joint", "reference_candidates"),
        _and_others_are_kept(_joint_equals_reference),
    ),
    "several candidates: lossless greedy equals the target alone (float32)": (
        ("candidates", "alone"),
        _and_others_are_kept(_lossless_equals_target_alone),
    ),
    "several candidates: CUDA graphs equal eager (float32)": (
        ("candidates", "candidates_eager"),
        _and_others_are_kept(_graphs_equal_eager_float32),
    ),
    "several candidates: CUDA graphs equal eager (bfloat16)": (
        ("candidates_bfloat16", "candidates_bfloat16_eager"),
        _and_others_are_kept(_graphs_equal_eager_bfloat16),
    ),
    "CUDA graphs equal eager (float32)": (("float32", "float32_eager"), _graphs_equal_eager_float32),
    "CUDA graphs equal eager (bfloat16)": (("bfloat16", "bfloat16_eager"), _graphs_equal_eager_bfloat16),
    "an engine as started by default equals eager (bfloat16)": (
        ("bfloat16_default", "bfloat16_eager"),
        _default_start_equals_eager,
    ),
    "async scheduling is on by default and equals sync (float32)": (("float32", "float32_sync"), _async_equals_sync),
    "FLASH_ATTN and TRITON_ATTN agree (bfloat16)": (("bfloat16", "bfloat16_triton"), _backends_agree),
}
TINY_CHECKS = {name: CHECKS[name] for name in ("joint greedy equals the reference (float32)",)}


def _mean(values: list) -> float:
    return sum(values) / len(values) if values else 0.0


def _first_difference(one: list[int], other: list[int]) -> int | None:
    if one == other:
        return None
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
