"""Every place where vLLM is patched, in one table: where, why, and when the patch can go.

Each replacement asks whether mtad was asked for and otherwise does what vLLM does. `tests/plugin/test_seams.py` holds
each seam against the source of the supported vLLM.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_mtad.plugin import engine_seams, front_end_seams, v1_runner_seams, v2_runner_seams

logger = logging.getLogger("vllm.mtad")
_MARK = "__mtad_seam__"


@dataclass(frozen=True)
class Seam:
    module: str
    name: str
    replacement: Callable[[Any], Any]
    """Takes what stands there, gives what shall stand there."""
    why: str
    remove_when: str
    is_static: bool = False


REFUSAL_SEAMS = (
    Seam(
        "vllm.engine.arg_utils",
        "EngineArgs.add_cli_args",
        front_end_seams.accept_bare_method,
        why="--speculative-config takes JSON only; `mtad` alone is a draft from the table of known families",
        remove_when="vLLM accepts a bare method name, and lists fields of registered methods in --help",
        is_static=True,
    ),
    Seam(
        "vllm.engine.arg_utils",
        "EngineArgs.create_engine_config",
        front_end_seams.check_engine_config,
        why="LLM(speculative_config='mtad'), and the checks that need the whole engine configuration",
        remove_when="vLLM lets a speculative method check the VllmConfig",
    ),
    Seam(
        "vllm.engine.arg_utils",
        "EngineArgs.create_speculative_config",
        front_end_seams.check_speculative_config,
        why="one sentence instead of a validation dump when an mtad option is refused; the line at start",
        remove_when="vLLM has a registry of speculative methods with their own configuration",
    ),
)

SEAMS = (
    *REFUSAL_SEAMS,
    Seam(
        "vllm.engine.arg_utils",
        "SpeculativeConfig",
        front_end_seams.speculative_config_class,
        why="the method name and its fields; this module holds vLLM's only construction of the class",
        remove_when="vLLM has a registry of speculative methods with their own configuration",
    ),
    Seam(
        "vllm.config.vllm",
        "NgramGPUTypes",
        engine_seams.keep_async_scheduling,
        why="async scheduling is turned off for methods that are not listed here; mtad's drafts stay on the device",
        remove_when="vLLM asks the speculative method whether it supports async scheduling",
    ),
    Seam(
        "vllm.sampling_params",
        "SamplingParams._validate_spec_decode",
        front_end_seams.accept_sampling_parameters,
        why="vLLM refuses min-p and logit bias with any speculation; mtad applies them at every row (logit bias on V2)",
        remove_when="vLLM asks the speculative method which sampling parameters it supports",
    ),
    Seam(
        "vllm.v1.engine.core",
        "EngineCore._initialize_kv_caches",
        engine_seams.reserve_scratch_blocks,
        why="the last blocks of the KV cache are the beams' scratch, which the scheduler must not hand out",
        remove_when="a drafter can reserve KV blocks",
    ),
    Seam(
        "vllm.v1.spec_decode.draft_model",
        "DraftModelProposer.__new__",
        v1_runner_seams.choose_proposer,
        why="the V1 runner names its proposer classes in an if-chain; for mtad an instance is an MTADProposer",
        remove_when="vLLM has a registry of proposers",
        is_static=True,
    ),
    Seam(
        "vllm.v1.sample.rejection_sampler",
        "RejectionSampler.__new__",
        v1_runner_seams.choose_rejection_sampler,
        why="the V1 runner names its rejection sampler class; for mtad an instance is an MTADRejectionSampler",
        remove_when="vLLM has a registry of acceptance rules",
        is_static=True,
    ),
    Seam(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner._get_spec_decode_draft_probs",
        v1_runner_seams.hand_over_draft,
        why="a request whose q is unknown loses its own draft, not the q of the whole batch; carries min-p",
        remove_when="vLLM hands the rejection sampler draft probabilities per request",
    ),
    Seam(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner._input_fits_in_drafter",
        v1_runner_seams.always_draft,
        why="one request near max_model_len turns drafting off for all and leaves holes in their draft KV",
        remove_when="vLLM decides this per request (also wrong for its own draft_model, though lossless there)",
    ),
    Seam(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner._bookkeeping_sync",
        v1_runner_seams.keep_generators_of_partial_prefills,
        why="rewinds the generator of a partial prefill, for which mtad drew nothing; raises on a CPU",
        remove_when="patches/0.32.0/generator-offset is upstream and mtad's sampler draws like vLLM's",
    ),
    Seam(
        "vllm.v1.worker.gpu.spec_decode.standalone_ar.speculator",
        "StandaloneARSpeculator.__new__",
        v2_runner_seams.choose_speculator,
        why="the V2 runner names its speculator classes in an if-chain; for mtad an instance is an MTADSpeculator",
        remove_when="vLLM has a registry of speculators",
        is_static=True,
    ),
    Seam(
        "vllm.v1.worker.gpu.model_runner",
        "GPUModelRunner.load_model",
        v2_runner_seams.join_speculator_and_sampler,
        why="the V2 runner names its rejection sampler class, and tells the drafter temperatures and seeds only; its"
        " model state prepares the target's attention, of trees too",
        remove_when="vLLM has a registry of acceptance rules, hands top-k, top-p and min-p to the speculator, and"
        " verifies trees",
    ),
)


def apply_seam(seam: Seam, reason: str | None, module: Any) -> None:
    """Put the replacement in place, once. `reason` says why mtad is unavailable, if it is.

    An exception here would surface in whoever imports `module`, asked for mtad or not: one is logged instead.
    """
    try:
        _apply(seam, reason, module)
    except Exception:
        logger.exception("vllm-mtad could not patch %s.%s; vLLM runs without it.", seam.module, seam.name)


def _apply(seam: Seam, reason: str | None, module: Any) -> None:
    owner, _, attribute = seam.name.rpartition(".")
    holder = getattr(module, owner) if owner else module
    original = getattr(holder, attribute)
    if hasattr(original, _MARK):
        return
    replacement = seam.replacement(original) if reason is None else seam.replacement(original, reason)  # type: ignore[call-arg]
    setattr(replacement, _MARK, seam.name)
    setattr(holder, attribute, staticmethod(replacement) if seam.is_static else replacement)
