"""This module says what the measurements are held against, and which check stands behind which claim.

Aims are what was hoped for. Claims are what README and `docs` say of GPUs, in their words. Neither is mentioned as
held where nothing was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_checks.report import Report

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Claim:
    """`words`: as in README or `docs`. `part`: that of the records that show it; the names of their checks begin with
    `check`.
    """

    words: str
    part: str
    check: str


CLAIMS = (
    Claim("On a GPU mtad runs on vLLM's Model Runner V2", "serve", "vllm serve, gamma = 4: "),
    Claim("γ, tokens drafted per target call", "serve", "vllm serve, gamma = 8: "),
    Claim("with async scheduling", "correctness", "async scheduling is on by default"),
    Claim("and CUDA graphs as vLLM has them on", "correctness", "an engine as started by default"),
    Claim("CUDA graphs' dispatch and padding", "correctness", "CUDA graphs equal eager"),
    Claim("The beams' KV is a small scratch beside the KV cache (the log says how much", "serve", "vllm serve"),
    Claim("FlashAttention or Triton's", "correctness", "FLASH_ATTN and TRITON_ATTN agree"),
    Claim("A schedule of vLLM's says how many tokens to draft", "correctness", "a schedule of draft lengths"),
    Claim("token for token what the target alone would give", "correctness", "lossless greedy equals the target alone"),
    Claim("joint greedy equal to the slow reference", "correctness", "joint greedy equals the reference"),
    Claim("server, streaming, `/metrics`", "serve", "vllm serve, gamma = 4: answers every request"),
    Claim("at most 16 on a GPU", "drafting", "B = 16 drafts"),
    Claim("paged prefix once for all beams", "drafting", "aim: B=4 at 32 requests, 2k"),
    Claim("several candidates: equal to the slow reference", "correctness", "several candidates: "),
    Claim("FlashAttention 3 or our kernel for the text, our kernel among the rows", "trees", "attention over trees"),
    Claim("compiled engines", "arrivals", "first passes with a prefill run in pieces"),
)
"""Not here: tensor parallelism, which needs two GPUs."""


def conclude(report: Report) -> None:
    """Appends what follows from the records together: checks, aims, and what became of each claim."""
    records = report.records()
    _drafting_checks(report, records)
    _arrival_checks(report, records)
    timed = [record for record in records if record.get("timed")]
    _drafting_aims(report, timed)
    _tree_aims(report, timed)
    _arrival_aims(report, timed)
    _step_aims(report, timed)
    records = report.records()
    for claim in CLAIMS:
        report.add(
            "claims", claim=claim.words, shown_by=f"{claim.part}: {claim.check.strip()}", holds=_holds(claim, records)
        )


def _holds(claim: Claim, records: Records) -> str:
    """Whether a claim was shown. An aim is no check, but a claim that leans on one falls with it."""
    own = [record for record in records if record["part"] == claim.part]
    checks = [r["passed"] for r in own if "check" in r and r["check"].startswith(claim.check)]
    aims = [r["met"] for r in own if "aim" in r and f"aim: {r['aim']}".startswith(claim.check)]
    return "not looked at" if not checks + aims else "yes" if all(checks + aims) else "NO"


# -- checks of several records ----------------------------------------------------------------------------------------


def _drafting_checks(report: Report, records: Records) -> None:
    own = [r for r in records if r["part"] == "drafting" and "passed" in r and r["variant"].startswith("mtad")]
    for width in sorted({r["beam_width"] for r in own}):
        of_width = [r for r in own if r["beam_width"] == width]
        wrong = [f"{r['variant']}, {r['requests']} requests" for r in of_width if not r["passed"]]
        check = f"B = {width} drafts tokens of the vocabulary, replays its graphs, never waits for the device"
        report.add("drafting", check=check, passed=not wrong, detail={"rounds": len(of_width), "wrong": wrong})


def _arrival_checks(report: Report, records: Records) -> None:
    for r in records:
        if r["part"] != "arrivals" or "steps" not in r or not r["pieces"]:
            continue
        trace, modes = r["trace"], r["first_passes_with_prefill"]
        check = f"most steps of the trace {trace!r} hold a prefill"
        detail = {name: r[name] for name in ("steps", "with_prefill")}
        report.add("arrivals", check=check, passed=2 * r["with_prefill"] > r["steps"] > 0, detail=detail)
        if r["most_tokens"] <= r["most_captured"]:
            check = f"first passes with a prefill run in pieces: trace {trace!r}"
            report.add("arrivals", check=check, passed=set(modes) == {"PIECEWISE"}, detail=modes)


# -- aims -------------------------------------------------------------------------------------------------------------

SKEWED, BALANCED = (16, 3008, 32_768), (16, 3008, 3008)


def _drafting_aims(report: Report, records: Records) -> None:
    own = [r for r in records if r["part"] == "drafting"]
    one, many = (1, 2048, 2048), (32, 2048, 2048)
    ours, compiled = "mtad B4 graphs", "mtad B4 graphs compiled"
    aims = (
        ("B=4 at 1 requests, 2k", (one, ours), (one, "mtad B1 graphs"), 1.15),
        ("B=4 at 1 requests, 2k", (one, ours), (one, "draft_model"), 0.5),
        ("compiled B=4 at 1 requests, 2k", (one, compiled), (one, "draft_model compiled"), 0.7),
        ("B=4 at 32 requests, 2k", (many, ours), (many, "mtad B1 graphs"), 1.5),
        ("B=4 with top-k/p at 32 requests, 2k", (many, f"{ours} top-k/p"), (many, ours), 1.1),
        ("B=4, one of 32k beside 15 of 1k", (SKEWED, ours), (BALANCED, ours), 2.0),
    )
    for field, how in (("ms", "device idle before"), ("device_ms", "host ahead")):
        medians = {((r["requests"], r["context"], r["longest"]), r["variant"]): r[field][1] for r in own}
        for what, measured, base, at_most in aims:
            if measured in medians and base in medians:
                of = "the same tokens in a balanced batch" if base[0] != measured[0] else base[1]
                _add(
                    report,
                    "drafting",
                    f"{what}, {how}: at most {at_most} x {of}",
                    medians[measured] / medians[base],
                    at_most,
                )


def _tree_aims(report: Report, records: Records) -> None:
    own = [r for r in records if r["part"] == "trees"]
    of_xformers = {(r["requests"], r["context"]): r["device_ms"][1] for r in own if r["variant"] == "xformers"}
    for r in own:
        if r["variant"] != "xformers":
            aim = f"trees of {r['requests']} requests of {r['context']}, {r['variant']}: at most 1 x xformers"
            _add(report, "trees", aim, r["device_ms"][1] / of_xformers[r["requests"], r["context"]], 1.0)


def _arrival_aims(report: Report, records: Records) -> None:
    times = {(r["trace"], r["pieces"]): r["step_ms"] for r in records if r["part"] == "arrivals" and "step_ms" in r}
    if {("short", True), ("short", False)} <= times.keys():
        aim = "steps with a prefill: at most 1 x those with an eager first pass"
        _add(report, "arrivals", aim, times["short", True] / times["short", False], 1.0)


def _step_aims(report: Report, records: Records) -> None:
    for r in records:
        if r["part"] == "step" and "acceptance_ms" in r:
            aim = f"acceptance at {r['requests']} requests, {r['sampling']}: at most 0.05 of the target's step"
            _add(report, "step", aim, r["acceptance_ms"] / r["target_ms"], 0.05)


def _add(report: Report, part: str, aim: str, value: float, at_most: float) -> None:
    report.add(part, aim=aim, value=value, met=value <= at_most)
