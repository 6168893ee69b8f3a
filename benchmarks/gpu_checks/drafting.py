"""Times one drafting round, `propose`, of mtad and of vLLM's draft_model, on the shape of Llama-3.2-1B.

All variants live in one process and take turns. A round is timed twice: after the device went idle, so that the host's
share of it counts; and queued behind other work, as it is in an engine whose host is a step ahead, where the device's
share alone counts. Beside it stands the least time in which what must be read and written can be copied.
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
from benchmarks.gpu_checks.speculator_alone import SpeculatorAlone
from benchmarks.gpu_checks.timing import Times, copy_bandwidth

TRUNCATION = {"top_k": 10, "top_p": 0.9}
REPEATS, REPEATS_BEHIND, WARM_UPS = 25, 15, 3
MS_PER_LAUNCH = 2e-3


@dataclass(frozen=True)
class Variant:
    method: str
    beam_width: int = 1
    graphs: bool = False
    truncates: bool = False

    @property
    def name(self) -> str:
        if self.method == "draft_model":
            return "draft_model"
        return f"mtad B{self.beam_width} {'graphs' if self.graphs else 'eager'}{' top-k/p' * self.truncates}"

    @property
    def speculator(self) -> str:
        """Variants of one name share a speculator."""
        return self.method if self.method == "draft_model" else f"mtad B{self.beam_width}"


@dataclass(frozen=True)
class Setting:
    shape: ModelShape
    dtype: str
    gamma: int
    beam_widths: tuple[int, ...]
    truncated_width: int
    shapes: tuple[tuple[int, int], ...]
    """(requests, context), in the order of their weight."""
    options: dict[str, Any]


GPU = Setting(
    LLAMA_1B,
    "bfloat16",
    4,
    (1, 4, 8),
    4,
    ((1, 2048), (32, 2048), (8, 2048), (128, 2048), (1, 256), (32, 256), (8, 256), (128, 256)),
    {"max_model_len": 4096, "max_num_batched_tokens": 2048, "block_size": 16, "attention_backend": "FLASH_ATTN"},
)
TINY = Setting(
    TINY_DRAFT,
    "float32",
    3,
    (1, 2),
    2,
    ((1, 40), (2, 40)),
    {"max_model_len": 128, "max_num_batched_tokens": 128, "block_size": 32, "enforce_eager": True},
)


def _variants(setting: Setting, graphs: bool) -> list[Variant]:
    found = [Variant("draft_model")]
    for width in setting.beam_widths:
        for truncates in (False, True) if width == setting.truncated_width else (False,):
            found += [Variant("mtad", width, graphed, truncates) for graphed in ((True, False) if graphs else (False,))]
    return found


def measure(file: str, folder: str, tiny: bool, only_first: bool, seconds: float, mode: int, only: list[str]) -> bool:
    """Appends a record for each variant and shape to `file`; no shape is begun after `seconds`.

    Args:
        folder: for the model.
        mode: vLLM's compilation mode.
        only: names of speculators. One that cannot be built is recorded as an error and left out.
    """
    start, records = time.monotonic(), Path(file)
    setting = TINY if tiny else GPU
    shapes = list(setting.shapes[:2] if only_first else setting.shapes)
    variants = [v for v in _variants(setting, graphs=not tiny) if v.speculator in only]
    model = write_model(Path(folder) / "draft", setting.shape, setting.dtype)
    built: dict[str, SpeculatorAlone] = {}
    for name in only:
        first = next(v for v in variants if v.speculator == name)
        try:
            built[name] = _build(model, setting, shapes, first, mode)
            if not tiny:
                built[name].capture()  # where this fails, the eager variants are still measured
        except Exception:
            append(records, {"part": "drafting", "variant": name, "error": traceback.format_exc(limit=-6)})
    bandwidth = None if tiny else copy_bandwidth()
    if bandwidth:
        append(records, {"part": "drafting", "copy_bytes_per_second": bandwidth})
    for requests, context in shapes:
        if time.monotonic() - start > seconds:
            append(records, {"part": "drafting", "requests": requests, "context": context, "skipped": "no time left"})
            continue
        for record in _shape(setting, built, variants, requests, context, bandwidth):
            append(records, {"part": "drafting", "requests": requests, "context": context, "mode": mode} | record)
    if not tiny:
        # Last, for a profiler slows what it has once looked at.
        for variant in variants:
            if not variant.graphs and variant.speculator in built:
                _count_launches(records, built[variant.speculator], variant)
    return True


def _build(model: str, setting: Setting, shapes: list[tuple[int, int]], variant: Variant, mode: int) -> SpeculatorAlone:
    speculative: dict[str, Any] = {"method": variant.method, "num_speculative_tokens": setting.gamma}
    own = {"beam_width": variant.beam_width} if variant.method == "mtad" else {"draft_sample_method": "probabilistic"}
    options = {"dtype": setting.dtype} | setting.options
    if not options.get("enforce_eager"):
        sizes = sorted({requests * (setting.gamma + 2) for requests, _ in shapes})
        options["compilation_config"] = {"mode": mode, "cudagraph_mode": "FULL", "cudagraph_capture_sizes": sizes}
    return SpeculatorAlone(model, speculative | own, shapes, options)


def _shape(
    setting: Setting,
    built: dict[str, SpeculatorAlone],
    variants: list[Variant],
    requests: int,
    context: int,
    bandwidth: float | None,
) -> list[dict[str, Any]]:
    """A record for each variant at one shape."""
    for each in built.values():
        each.set_batch(requests, context)
    rounds: dict[Variant, Callable[[], Any]] = {}
    records: dict[Variant, dict[str, Any]] = {}
    failed: list[dict[str, Any]] = []
    for variant in variants:
        if (alone := built.get(variant.speculator)) is None:
            continue
        _prepare(alone, variant)
        found = alone.graphs_found(variant.truncates)
        if variant.graphs and not all(found.values()):
            failed.append({"variant": variant.name, "skipped": f"graphs: {found}"})
            continue
        record = {"variant": variant.name, "beam_width": variant.beam_width}
        try:
            drafts = alone.propose()
            in_vocabulary = bool(((drafts >= 0) & (drafts < setting.shape.vocab_size)).all())
        except Exception:
            failed.append(record | {"error": traceback.format_exc(limit=-6)})
            continue
        waits = None if bandwidth is None else _wait_for_the_device(alone)
        passed = in_vocabulary and (waits is None or variant.method != "mtad")
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
            moved = _bytes(setting, built[variant.speculator], variant.beam_width, requests, context)
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
    alone.set_sampling(**(TRUNCATION if variant.truncates else {}))


def _bytes(setting: Setting, alone: SpeculatorAlone, beam_width: int, requests: int, context: int) -> int:
    """gamma times the weights and the prefix's KV, and every logit written and read once."""
    size = torch.finfo(getattr(torch, setting.dtype)).bits // 8
    passes = weight_bytes(alone.speculator.model) + requests * context * setting.shape.kv_values_per_token * size
    rows = requests * (1 + (setting.gamma - 1) * beam_width)
    return setting.gamma * passes + 2 * rows * setting.shape.vocab_size * size


def _count_launches(records: Path, alone: SpeculatorAlone, variant: Variant) -> None:
    """Kernels of an eager round at one request, by torch's profiler, which may be missing or fail."""
    from torch.profiler import ProfilerActivity, profile

    record = {"part": "drafting", "variant": variant.name}
    try:
        alone.set_batch(*GPU.shapes[0])
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
