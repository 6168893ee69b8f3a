"""This table lists every place where vLLM is patched: where, why, and when the patch can go.

Each replacement asks whether mtad was asked for and otherwise does what vLLM does. `tests/plugin/test_contracts.py`
holds each seam against the source of the supported vLLM. Importing this loads neither torch nor any of what is patched.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from vllm_mtad.config.errors import one_sentence
from vllm_mtad.config.options import METHOD, is_mtad
from vllm_mtad.plugin import engine_seams, front_end_seams, v1_runner_seams, v2_runner_seams
from vllm_mtad.plugin.subclassing import subclass_for_mtad

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
    runner: Literal["v1", "v2"] | None = None
    """The model runner that needs it; None: each."""
    is_static: bool = False
    may_be_absent: bool = False
    """A release that was tested has no such name, and needs no patch."""


@dataclass(frozen=True)
class InstanceSeam:
    """A method that is replaced on single objects of an engine that was asked for mtad; vLLM's class stays as it is.

    `owner`: vLLM's class that defines the method. `replaced_in`: our module that replaces it.
    """

    owner: str
    name: str
    replaced_in: str
    why: str
    remove_when: str


def _of_method(*args: Any, method: str | None = None, **fields: Any) -> bool:
    """Whether the arguments of SpeculativeConfig ask for mtad."""
    return method == METHOD


def _of_engine(vllm_config: Any = None, *args: Any, **kwargs: Any) -> bool:
    """Whether the arguments of the V1 proposer or of the V2 speculator ask for mtad."""
    return is_mtad(getattr(vllm_config, "speculative_config", None))


def _of_sampler(sampler: Any = None, spec_config: Any = None, *args: Any, **kwargs: Any) -> bool:
    """Whether the arguments of the V1 rejection sampler ask for mtad."""
    return is_mtad(spec_config)


def _of_metrics(speculative_config: Any = None, *args: Any, **kwargs: Any) -> bool:
    """Whether the arguments of SpecDecodingProm ask for mtad."""
    return is_mtad(speculative_config)


SEAMS = (
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
        why="LLM(speculative_config='mtad'), the checks that need the whole configuration, and the line at start",
        remove_when="vLLM lets a speculative method check the VllmConfig",
    ),
    Seam(
        "vllm.engine.arg_utils",
        "EngineArgs.create_speculative_config",
        front_end_seams.check_speculative_config,
        why="one sentence instead of a validation dump when an mtad option is refused",
        remove_when="vLLM has a registry of speculative methods with their own configuration",
    ),
    Seam(
        "vllm.config.speculative",
        "SpeculativeConfig.__new__",
        subclass_for_mtad("vllm_mtad.config.speculative:MTADSpeculativeConfig", _of_method),
        why="the method name and its fields; for mtad an instance is an MTADSpeculativeConfig",
        remove_when="vLLM has a registry of speculative methods with their own configuration",
        is_static=True,
    ),
    Seam(
        "vllm.config.vllm",
        "NgramGPUTypes",
        engine_seams.keep_async_scheduling,
        why="async scheduling is turned off for methods that are not listed here; mtad's drafts stay on the device",
        remove_when="vLLM asks the speculative method whether it supports async scheduling",
    ),
    Seam(
        "vllm.config.vllm",
        "VllmConfig._maybe_disable_dynamic_sd_for_v1",
        engine_seams.keep_schedule,
        why="from 0.33 on V1 drops the schedules of methods that are not listed there; mtad's proposer follows them",
        remove_when="vLLM asks the proposer whether it follows schedules",
        may_be_absent=True,
    ),
    Seam(
        "vllm.config.vllm",
        "VllmConfig._maybe_disable_dynamic_sd_for_data_parallel",
        engine_seams.keep_schedule,
        why="data parallelism drops schedules, as if replicas of dense models had to go together; without one, as many"
        " candidates would be drafted as there is no room for",
        remove_when="vLLM drops them for mixtures of experts only",
    ),
    Seam(
        "vllm.sampling_params",
        "SamplingParams._validate_spec_decode",
        front_end_seams.accept_sampling_parameters,
        why="vLLM refuses min-p and logit bias with any speculation; mtad applies them at every row (logit bias on V2)",
        remove_when="vLLM asks the speculative method which sampling parameters it supports",
    ),
    Seam(
        "vllm.v1.spec_decode.metrics",
        "SpecDecodingProm.__new__",
        subclass_for_mtad("vllm_mtad.plugin.metrics:MTADMetrics", _of_metrics),
        why="tokens a call and draft lengths in /metrics; an entry of `vllm.stat_logger_plugins` turns statistics on"
        " for every method, whatever --disable-log-stats says",
        remove_when="vLLM asks a speculative method for its metrics, or loads stat loggers without that effect",
        is_static=True,
    ),
    Seam(
        "vllm.v1.engine.core",
        "EngineCore._initialize_kv_caches",
        engine_seams.reserve_scratch_blocks,
        why="the last blocks of the KV cache are the beams' scratch, which the scheduler must not hand out",
        remove_when="a drafter can reserve KV blocks",
        runner="v1",
    ),
    Seam(
        "vllm.v1.spec_decode.draft_model",
        "DraftModelProposer.__new__",
        subclass_for_mtad("vllm_mtad.runners.v1.proposer:MTADProposer", _of_engine),
        why="the V1 runner names its proposer classes in an if-chain; for mtad an instance is an MTADProposer",
        remove_when="vLLM has a registry of proposers",
        is_static=True,
        runner="v1",
    ),
    Seam(
        "vllm.v1.sample.rejection_sampler",
        "RejectionSampler.__new__",
        subclass_for_mtad("vllm_mtad.runners.v1.rejection_sampler:MTADRejectionSampler", _of_sampler),
        why="the V1 runner names its rejection sampler class; for mtad an instance is an MTADRejectionSampler",
        remove_when="vLLM has a registry of acceptance rules",
        is_static=True,
        runner="v1",
    ),
    Seam(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner._get_spec_decode_draft_probs",
        v1_runner_seams.hand_over_draft,
        why="a request whose q is unknown loses its own draft, not the q of the whole batch; carries min-p",
        remove_when="vLLM hands the rejection sampler draft probabilities per request",
        runner="v1",
    ),
    Seam(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner._input_fits_in_drafter",
        v1_runner_seams.always_draft,
        why="one request near max_model_len turns drafting off for all and leaves holes in their draft KV",
        remove_when="vLLM decides this per request (also wrong for its own draft_model, though lossless there)",
        runner="v1",
    ),
    Seam(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner._bookkeeping_sync",
        v1_runner_seams.keep_generators_of_partial_prefills,
        why="rewinds the generator of a partial prefill, for which mtad drew nothing; raises on a CPU",
        remove_when="patches/0.32.0/generator-offset is upstream and mtad's sampler draws like vLLM's",
        runner="v1",
    ),
    Seam(
        "vllm.v1.worker.gpu.spec_decode.standalone_ar.speculator",
        "StandaloneARSpeculator.__new__",
        subclass_for_mtad("vllm_mtad.runners.v2.speculator:MTADSpeculator", _of_engine),
        why="the V2 runner names its speculator classes in an if-chain; for mtad an instance is an MTADSpeculator",
        remove_when="vLLM has a registry of speculators",
        is_static=True,
        runner="v2",
    ),
    Seam(
        "vllm.v1.worker.gpu.model_runner",
        "GPUModelRunner.load_model",
        v2_runner_seams.join_speculator_and_sampler,
        why="the V2 runner names its rejection sampler class, and tells the drafter temperatures and seeds only; its"
        " model state prepares the target's attention, of trees too",
        remove_when="vLLM has a registry of acceptance rules, hands top-k, top-p and min-p to the speculator, and"
        " verifies trees",
        runner="v2",
    ),
)

INSTANCE_SEAMS = (
    InstanceSeam(
        "vllm.v1.attention.backend.AttentionMetadataBuilder",
        "build",
        "vllm_mtad.runners.v1.tree_verification",
        why="the V1 runner lays a request's rows out as one text; those of a tree are several sequences",
        remove_when="the V1 runner lets a drafter lay out what the target verifies",
    ),
    InstanceSeam(
        "vllm.v1.attention.backends.cpu_attn.CPUAttentionBackendImpl",
        "do_kv_cache_update",
        "vllm_mtad.runners.v1.tree_verification",
        why="keys and values of a tree's row are written to every branch that the row is on",
        remove_when="as above; or the CPU's attention takes a mask",
    ),
    InstanceSeam(
        "vllm.v1.worker.gpu.block_table.BlockTables",
        "append_block_ids",
        "vllm_mtad.runners.v2.missed_text",
        why="which tokens the draft model has not read is known by block, and the host keeps no block table",
        remove_when="the V2 runner tells the speculator of new blocks",
    ),
    InstanceSeam(
        "vllm.v1.attention.backend.AttentionImpl",
        "forward",
        "vllm_mtad.runners.v2.attention_stand_in",
        why="beams, and rows of a tree, attend to a shared paged prefix and to their own ancestors",
        remove_when="vLLM's backends attend over trees, and lets a drafter choose its attention",
    ),
    InstanceSeam(
        "vllm.v1.attention.backend.AttentionImpl",
        "fused_output_quant_supported",
        "vllm_mtad.runners.v2.attention_stand_in",
        why="compilation may fuse a quantization of the output into the backend's kernel; ours have none",
        remove_when="as for `forward`",
    ),
)


_failures: dict[str, str] = {}
"""Why a seam could not be applied in this process, by its name."""


def apply_seam(seam: Seam, module: Any) -> None:
    """Put the replacement in place, once.

    An exception here would surface in whoever imports `module`, asked for mtad or not: one is remembered instead, and
    who asks for mtad is told (`availability.check_available`).
    """
    try:
        _apply(seam, module)
    except Exception as error:
        _failures[seam.name] = one_sentence(error)
        logger.debug("vllm-mtad could not patch %s.%s", seam.module, seam.name, exc_info=True)


def why_missing(seam: Seam) -> str | None:
    """Why a seam does not stand in this process, None if it does. Imports the module that is patched."""
    try:
        holder, attribute = _place(seam, importlib.import_module(seam.module))
    except Exception as error:
        return one_sentence(error)
    if hasattr(getattr(holder, attribute, None), _MARK) or not is_wanted(seam, holder, attribute):
        return None
    return _failures.get(seam.name, "it is not what vllm-mtad left there")


def _other_than_vllm(function: Any) -> str | None:
    """The module that a function is of, if that is neither vLLM's nor one with which vLLM decorates its own. What wraps
    vLLM's (`functools.wraps`) is of vLLM: a seam can stand on top of it.
    """
    module = getattr(inspect.unwrap(function), "__globals__", {}).get("__name__", "vllm")
    return None if module.split(".")[0] in ("vllm", "torch", "pydantic") else module


def _place(seam: Seam, module: Any) -> tuple[Any, str]:
    owner, _, attribute = seam.name.rpartition(".")
    return (getattr(module, owner) if owner else module), attribute


def has_place(seam: Seam) -> bool:
    """Whether the installed vLLM has what a seam patches, or should have it."""
    return is_wanted(seam, *_place(seam, importlib.import_module(seam.module)))


def is_wanted(seam: Seam, holder: Any, attribute: str) -> bool:
    return not seam.may_be_absent or hasattr(holder, attribute)


def _apply(seam: Seam, module: Any) -> None:
    from vllm_mtad.plugin.availability import is_tested_vllm
    from vllm_mtad.plugin.contract_table import why_unlike_its_contract

    holder, attribute = _place(seam, module)
    if not is_wanted(seam, holder, attribute):
        return
    original = getattr(holder, attribute)
    if hasattr(original, _MARK):
        return
    if (other := _other_than_vllm(original)) is not None:
        raise RuntimeError(f"{other} has replaced it before")
    if not is_tested_vllm() and (why := why_unlike_its_contract(seam.name)) is not None:
        raise RuntimeError(why)  # the replacement would not fit for those either who do not ask for mtad
    replacement = seam.replacement(original)
    setattr(replacement, _MARK, seam.name)
    setattr(holder, attribute, staticmethod(replacement) if seam.is_static else replacement)
