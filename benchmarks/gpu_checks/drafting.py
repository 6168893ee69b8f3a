"""This check times one drafting round, `propose`, of mtad and of vLLM's draft_model, on the shape of Llama-3.2-1B.

All variants live in one process and take turns. A round is timed twice: after the device went idle, so that the host's
share of it counts; and queued behind other work, as it is in an engine whose host is a step ahead, where the device's
share alone counts. Beside it stands the least time in which what must be read and written can be copied.

vLLM's draft_model has no CUDA graphs; it is measured eagerly and compiled, as `vllm serve` runs it. One batch is
skewed, and has the tokens of the balanced batch beside it.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_checks.models import LLAMA_1B, TINY_DRAFT, ModelShape, weight_bytes, write_model
from benchmarks.gpu_checks.report import append
from benchmarks.gpu_checks.speculator_alone import Contexts, SpeculatorAlone
from benchmarks.gpu_checks.timing import Times, copy_bandwidth

TRUNCATIONS: dict[str, dict[str, Any]] = {"": {}, "top-k/p": {"top_k": 10, "top_p": 0.9}, "top-p": {"top_p": 0.9}}
REPEATS, REPEATS_BEHIND, WARM_UPS = 25, 15, 3
MS_PER_LAUNCH = 2e-3


@dataclass(frozen=True)
class Speculator:
    method: str
    beam_width: int = 1
    compiled: bool = False

    @property
    def name(self) -> str:
        return "draft_model" if self.method == "draft_model" else f"mtad B{self.beam_width}"


@dataclass(frozen=True)
class Variant:
    """A speculator and how it is used."""

    speculator: Speculator
    graphs: bool = False
    truncation: str = ""

    @property
    def name(self) -> str:
        how = ("graphs" if self.graphs else "eager") * (self.speculator.method == "mtad")
        compiled = "compiled" * self.speculator.compiled
        return " ".join(filter(None, (self.speculator.name, how, compiled, self.truncation)))


@dataclass(frozen=True)
class Setting:
    shape: ModelShape
    dtype: str
    gamma: int
    beam_widths: tuple[int, ...]
    compiled_width: int | None
    truncated_width: int
    batches: tuple[Contexts, ...]
    """In the order of their weight."""
    options: dict[str, Any]


GPU = Setting(
    LLAMA_1B,
    "bfloat16",
    4,
    (1, 4, 8, 16),
    4,
    4,
    (
        *((2048,) * requests for requests in (1, 32)),
        (32_768, *(1024,) * 15),
        (3008,) * 16,  # as many tokens, shared out evenly
        *((2048,) * 8, (1024,) * 128),
        *((256,) * requests for requests in (1, 32, 8, 128)),
    ),
    {"max_model_len": 40_960, "max_num_batched_tokens": 2048, "block_size": 16, "attention_backend": "FLASH_ATTN"},
)
TINY = Setting(
    TINY_DRAFT,
    "float32",
    3,
    (1, 2),
    None,
    2,
    ((40,), (110, 20, 20)),
    {"max_model_len": 128, "max_num_batched_tokens": 128, "block_size": 32, "enforce_eager": True},
)


def describe(contexts: Contexts) -> dict[str, int]:
    """A batch in a record: its requests, their mean context, and the longest."""
    return {"requests": len(contexts), "context": sum(contexts) // len(contexts), "longest": max(contexts)}


def _speculators(setting: Setting, mode: int) -> list[Speculator]:
    found = [Speculator("draft_model"), *(Speculator("mtad", width) for width in setting.beam_widths)]
    if mode == 3 and setting.compiled_width is not None:
        found += [Speculator("draft_model", compiled=True), Speculator("mtad", setting.compiled_width, compiled=True)]
    return found


def _variants(setting: Setting, speculator: Speculator, graphs: bool) -> list[Variant]:
    if speculator.method == "draft_model":
        return [Variant(speculator)]
    is_truncated = speculator.beam_width == setting.truncated_width and not speculator.compiled
    truncations = tuple(TRUNCATIONS) if is_truncated else ("",)
    return [
        Variant(speculator, graphed, truncation)
        for truncation in truncations
        for graphed in ((True, False) if graphs else (False,))
    ]


def measure(
    file: str, folder: str, tiny: bool, only_first: bool, seconds: float, mode: int, only: list[str] | None
) -> bool:
    """Appends a record for each variant and batch to `file`; no batch is begun after `seconds`.

    Args:
        folder: for the model.
        mode: vLLM's compilation mode of the compiled variants; 0 leaves them out.
        only: names of speculators. One that cannot be built is recorded as an error and left out.
    """
    start, records = time.monotonic(), Path(file)
    setting = TINY if tiny else GPU
    batches = setting.batches[:2] if only_first else setting.batches
    model = write_model(Path(folder) / "draft", setting.shape, setting.dtype)
    built: dict[Speculator, SpeculatorAlone] = {}
    for speculator in _speculators(setting, mode):
        if only is not None and speculator.name not in only:
            continue
        try:
            built[speculator] = _build(model, setting, batches, speculator)
            if not tiny:
                built[speculator].capture()  # where this fails, the eager variants are still measured
        except Exception:
            name = Variant(speculator).name
            append(records, {"part": "drafting", "variant": name, "error": traceback.format_exc(limit=-6)})
    bandwidth = None if tiny else copy_bandwidth()
    if bandwidth:
        append(records, {"part": "drafting", "copy_bytes_per_second": bandwidth})
    for contexts in batches:
        at = {"part": "drafting"} | describe(contexts)
        if time.monotonic() - start > seconds:
            append(records, at | {"skipped": "no time left"})
            continue
        for record in _batch(setting, built, contexts, bandwidth):
            append(records, at | record)
    if not tiny:
        # Last, for a profiler slows what it has once looked at.
        for speculator, alone in built.items():
            for variant in _variants(setting, speculator, graphs=False):
                _count_launches(records, alone, variant)
    return True


def _build(model: str, setting: Setting, batches: tuple[Contexts, ...], speculator: Speculator) -> SpeculatorAlone:
    speculative: dict[str, Any] = {"method": speculator.method, "num_speculative_tokens": setting.gamma}
    is_mtad = speculator.method == "mtad"
    own = {"beam_width": speculator.beam_width} if is_mtad else {"draft_sample_method": "probabilistic"}
    options = {"dtype": setting.dtype} | setting.options
    if not options.get("enforce_eager"):
        options["compilation_config"] = {
            "mode": 3 if speculator.compiled else 0,
            "cudagraph_mode": "FULL_DECODE_ONLY",
            "cudagraph_capture_sizes": sorted({len(contexts) * (setting.gamma + 2) for contexts in batches}),
        }
    return SpeculatorAlone(model, speculative | own, batches, options)


def _batch(
    setting: Setting, built: dict[Speculator, SpeculatorAlone], contexts: Contexts, bandwidth: float | None
) -> list[dict[str, Any]]:
    """A record for each variant."""
    for each in built.values():
        each.set_batch(contexts)
    rounds: dict[Variant, Callable[[], Any]] = {}
    records: dict[Variant, dict[str, Any]] = {}
    failed: list[dict[str, Any]] = []
    for variant in [v for s in built for v in _variants(setting, s, graphs=bandwidth is not None)]:
        alone = built[variant.speculator]
        _prepare(alone, variant)
        record: dict[str, Any] = {"variant": variant.name, "beam_width": variant.speculator.beam_width}
        before = alone.replays
        try:
            drafts = alone.propose()
            in_vocabulary = bool(((drafts >= 0) & (drafts < setting.shape.vocab_size)).all())
        except Exception:
            failed.append(record | {"error": traceback.format_exc(limit=-6)})
            continue
        record["replays"] = {name: n - before[name] for name, n in alone.replays.items()}
        if variant.graphs and not all(record["replays"].values()):
            failed.append(record | {"timed": False, "passed": False})
            continue
        waits = None if bandwidth is None else _wait_for_the_device(alone)
        passed = in_vocabulary and (waits is None or variant.speculator.method != "mtad")
        records[variant] = record | {"timed": bandwidth is not None, "passed": passed, "host_waits_at": waits}
        rounds[variant] = alone.propose
    if bandwidth is not None:
        times = {variant: Times() for variant in rounds}
        for repeat in range(-WARM_UPS, REPEATS):
            for variant, propose in rounds.items():
                _prepare(built[variant.speculator], variant)
                times[variant].time(propose, repeat >= 0, behind=False)
                if repeat < REPEATS_BEHIND:
                    times[variant].time(propose, repeat >= 0, behind=True)
        for variant, record in records.items():
            moved = _bytes(setting, built[variant.speculator], variant.speculator.beam_width, contexts)
            record |= times[variant].summary() | {"bytes": moved, "floor_ms": moved / bandwidth * 1e3}
    return [*records.values(), *failed]


def _wait_for_the_device(alone: SpeculatorAlone) -> str | None:
    """Where a round makes the host wait for the device, by torch's own check, or None."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        alone.propose()
    except RuntimeError:
        return traceback.format_exc(limit=-4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


def _prepare(alone: SpeculatorAlone, variant: Variant) -> None:
    alone.use_graphs(variant.graphs)
    alone.set_sampling(**TRUNCATIONS[variant.truncation])


def _bytes(setting: Setting, alone: SpeculatorAlone, beam_width: int, contexts: Contexts) -> int:
    """gamma times the weights and the prefix's KV, and every logit written and read once."""
    size = torch.finfo(getattr(torch, setting.dtype)).bits // 8
    passes = weight_bytes(alone.speculator.model) + sum(contexts) * setting.shape.kv_values_per_token * size
    rows = len(contexts) * (1 + (setting.gamma - 1) * beam_width)
    return setting.gamma * passes + 2 * rows * setting.shape.vocab_size * size


def _count_launches(records: Path, alone: SpeculatorAlone, variant: Variant) -> None:
    """Kernels of an eager round at one request, by torch's profiler, which may be missing or fail."""
    from torch.profiler import ProfilerActivity, profile

    record = {"part": "drafting", "variant": variant.name}
    try:
        alone.set_batch(GPU.batches[0])
        _prepare(alone, variant)
        alone.propose()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            alone.propose()
            torch.cuda.synchronize()
        launches = sum(event.count for event in profiler.key_averages() if event.self_device_time_total > 0)
        append(records, record | {"launches": launches, "launch_floor_ms": launches * MS_PER_LAUNCH})
    except Exception as error:
        append(records, record | {"launches_not_counted": repr(error)[:200]})
