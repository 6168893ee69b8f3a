"""This table lists what the seams replace in vLLM's source: names, parameters, and lines that must stand there.
`contracts_relied_on` has what they do not replace.

On a release that mtad was tested with, the tests hold all of it. On another it is checked when mtad is asked for
(`availability`): if all of it holds, mtad runs.
"""

from __future__ import annotations

from collections.abc import Iterator

from vllm_mtad.plugin.contracts import Contract
from vllm_mtad.plugin.contracts_relied_on import RELIED_ON, V2

OF_SEAMS = (
    Contract(
        "vllm.engine.arg_utils",
        "EngineArgs.add_cli_args",
        ('"--speculative-config", "-sc"', '"--spec-method"'),
        parameters=("parser",),
    ),
    Contract(
        "vllm.engine.arg_utils",
        "EngineArgs.create_engine_config",
        ("speculative_config = self.create_speculative_config(",),
        parameters=("self", "usage_context", "headless"),
    ),
    Contract(
        "vllm.engine.arg_utils",
        "EngineArgs.create_speculative_config",
        ('("--spec-method", "method", self.spec_method)', "return SpeculativeConfig(**self.speculative_config)"),
        parameters=("self", "target_model_config", "target_parallel_config"),
    ),
    Contract(
        "vllm.config.vllm",
        "VllmConfig._maybe_disable_dynamic_sd_for_v1",
        ("speculative_config.num_speculative_tokens_per_batch_size = None",),
        parameters=("self",),
        may_be_absent=True,
    ),
    Contract(
        "vllm.config.vllm",
        "VllmConfig._maybe_disable_dynamic_sd_for_data_parallel",
        ("speculative_config.num_speculative_tokens_per_batch_size = None",),
        parameters=("self",),
    ),
    Contract(
        "vllm.sampling_params",
        "SamplingParams._validate_spec_decode",
        ("if self.min_p > _SAMPLING_EPS or self.logit_bias:",),
        parameters=("self", "speculative_config"),
    ),
    Contract(
        "vllm.v1.engine.core",
        "EngineCore._initialize_kv_caches",
        (
            "scheduler_kv_cache_config = generate_scheduler_kv_cache_config(kv_cache_configs)",
            "self.model_executor.initialize_from_config(kv_cache_configs)",
            "return scheduler_kv_cache_config",
        ),
        parameters=("self", "vllm_config"),
        runner="v1",
    ),
    Contract(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner._get_spec_decode_draft_probs",
        ("if self._draft_probs is None or self._draft_prob_req_ids is None:",),
        parameters=("self", "spec_decode_metadata"),
        runner="v1",
    ),
    Contract(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner._input_fits_in_drafter",
        ("common_attn_metadata.max_seq_len",),
        parameters=("self", "common_attn_metadata"),
        runner="v1",
    ),
    Contract(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner._bookkeeping_sync",
        ("gen = self.input_batch.generators.get(int(i))", "gen.set_offset(gen.get_offset() - 4)"),
        parameters=("self", "scheduler_output", "sampler_output", "logits", "hidden_states", "num_scheduled_tokens"),
        runner="v1",
    ),
    Contract(
        f"{V2}.model_runner",
        "GPUModelRunner.load_model",
        ("self.sampler = Sampler(**sampler_kwargs)", "self.rejection_sampler = RejectionSampler("),
        parameters=("self", "load_dummy_weights", "args", "model", "kwargs"),
        runner="v2",
    ),
    Contract(
        "vllm.v1.spec_decode.draft_model",
        "DraftModelProposer.__init__",
        (),
        parameters=("self", "vllm_config", "device", "runner"),
        runner="v1",
    ),
    Contract(
        "vllm.v1.sample.rejection_sampler",
        "RejectionSampler.__init__",
        (),
        parameters=("self", "sampler", "spec_config", "device"),
        runner="v1",
    ),
    Contract(
        f"{V2}.spec_decode.standalone_ar.speculator",
        "StandaloneARSpeculator.__init__",
        (),
        parameters=("self", "vllm_config", "device"),
        runner="v2",
    ),
    Contract(
        "vllm.v1.spec_decode.metrics",
        "SpecDecodingProm.__init__",
        (),
        parameters=("self", "speculative_config", "labelnames", "per_engine_labelvalues", "is_diffusion"),
    ),
)
"""Of what the seams replace."""


def why_unlike_its_contract(seam: str) -> str | None:
    """Why what a seam replaces is not what it was made for; None if it is."""
    place = seam.replace("__new__", "__init__")
    return next((why for contract in OF_SEAMS if contract.name == place and (why := contract.why_broken())), None)


def broken_contracts(runner: str | None) -> Iterator[str]:
    """
    Args:
        runner: "v1" or "v2", whose contracts are checked beside those of front end and engine.
    """
    for contract in (*OF_SEAMS, *RELIED_ON):
        if contract.runner in (None, runner) and (why := contract.why_broken()) is not None:
            yield why
