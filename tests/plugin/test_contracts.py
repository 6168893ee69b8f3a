"""Each seam against the source of the supported vLLM: signature, and the lines that the replacement relies on.

When one of these fails on a new vLLM, read what changed there before touching the expectation.
"""

import importlib
import inspect
import pkgutil

import pytest

from tests.plugin.finding import find
from vllm_mtad.plugin.seams import SEAMS

# Seam -> (parameters, lines that must stand in the source of what is replaced).
CONTRACTS = {
    "EngineArgs.add_cli_args": (["parser"], ['"--speculative-config", "-sc"', '"--spec-method"']),
    "EngineArgs.create_engine_config": (
        ["self", "usage_context", "headless"],
        ["speculative_config = self.create_speculative_config("],
    ),
    "EngineArgs.create_speculative_config": (
        ["self", "target_model_config", "target_parallel_config"],
        ['("--spec-method", "method", self.spec_method)', "return SpeculativeConfig(**self.speculative_config)"],
    ),
    "SamplingParams._validate_spec_decode": (
        ["self", "speculative_config"],
        ["if self.min_p > _SAMPLING_EPS or self.logit_bias:"],
    ),
    "EngineCore._initialize_kv_caches": (
        ["self", "vllm_config"],
        [
            "scheduler_kv_cache_config = generate_scheduler_kv_cache_config(kv_cache_configs)",
            "self.model_executor.initialize_from_config(kv_cache_configs)",
            "return scheduler_kv_cache_config",
        ],
    ),
    "GPUModelRunner._get_spec_decode_draft_probs": (
        ["self", "spec_decode_metadata"],
        ["if self._draft_probs is None or self._draft_prob_req_ids is None:"],
    ),
    "GPUModelRunner._input_fits_in_drafter": (["self", "common_attn_metadata"], ["common_attn_metadata.max_seq_len"]),
    "GPUModelRunner._bookkeeping_sync": (
        ["self", "scheduler_output", "sampler_output", "logits", "hidden_states", "num_scheduled_tokens"],
        ["gen = self.input_batch.generators.get(int(i))", "gen.set_offset(gen.get_offset() - 4)"],
    ),
}
CONTRACTS["GPUModelRunner.load_model"] = (
    ["self", "load_dummy_weights", "args", "model", "kwargs"],
    ["self.sampler = Sampler(**sampler_kwargs)", "self.rejection_sampler = RejectionSampler("],
)
V2 = "vllm.v1.worker.gpu"
# Places that no seam patches but the adapters rely on: (module, name) -> lines.
RELIED_ON = {
    ("vllm.config.vllm", "VllmConfig.__post_init__"): ["not in get_args(NgramGPUTypes)"],
    (f"{V2}.spec_decode", "init_speculator"): [
        "elif speculative_config.uses_draft_model():",
        "return StandaloneARSpeculator(vllm_config, device)",
    ],
    (f"{V2}.sample.gumbel", "_log1p_neg_stable"): ["direct = tl.log(tl.maximum(1.0 - value"],
    (f"{V2}.spec_decode.standalone_ar.speculator", "prepare_prefill_inputs"): [
        "expanded_input_ids: torch.Tensor",
        "last_token_indices: torch.Tensor",
        "return src_tokens + num_reqs",
    ],
    (f"{V2}.cudagraph_utils", "CudaGraphManager._init_candidates"): ["self._capture_descs[mode] = descs"],
    ("vllm.v1.sample.ops.topk_topp_triton", "apply_top_k_top_p_triton"): ["_TRITON_BUFFER_CACHE[buf_key] = buffer"],
    (f"{V2}.model_runner", "GPUModelRunner.add_requests"): [
        "req_index, new_req_data.block_ids, overwrite=True",
        "num_computed_tokens=new_req_data.num_computed_tokens,",
    ],
    (f"{V2}.model_runner", "GPUModelRunner.update_requests"): [
        "num_computed_tokens_np[req_index] = num_computed_tokens",
        "req_index, req_new_block_ids, overwrite=False",
    ],
    (f"{V2}.block_table", "BlockTables.gather_block_tables"): ["out = tuple(self.input_block_tables)"],
    (f"{V2}.block_table", "BlockTables.append_block_ids"): ["self.num_blocks.np[i, req_index] = end"],
    (f"{V2}.model_runner", "GPUModelRunner.sample_tokens"): [
        "draft_tokens[:, num_spec_tokens:] = -1",
        "self.req_states.draft_tokens[input_batch.idx_mapping] = draft_tokens",
    ],
    (f"{V2}.model_runner", "GPUModelRunner.initialize_kv_cache"): [
        "self.speculator.set_attn(",
        "self.speculator.init_cudagraph_manager(cudagraph_mode)",
        "self.model_state.initialize_kv_cache(self.kv_cache_config, self.block_tables)",
    ],
    (f"{V2}.model_runner", "GPUModelRunner.execute_model"): [
        "block_tables, slot_mappings = self.prepare_attn(input_batch)",
        "attn_metadata = self.model_state.prepare_attn(",
    ],
    (f"{V2}.model_runner", "GPUModelRunner.gather_batch_req_state"): [
        "decode_graph_eligible = not has_prefill",
        "return batch_state, get_uniform_decode_token_count(",
        "req_ids = sort_batch_req_ids(",
    ],
    (f"{V2}.model_runner", "sort_batch_req_ids"): [
        "not draft_tokens.get(r),",
        "return sorted(num_tokens_per_req, key=key)",
    ],
    (f"{V2}.sample.sampler", "Sampler.add_request"): [
        "for processor in self.logits_processors:",
        "processor.add_request(req_idx, sampling_params)",
    ],
    (f"{V2}.cudagraph_utils", "prepare_inputs_to_capture"): ["attn_metadata = model_state.prepare_attn("],
    (f"{V2}.spec_decode.rejection_sampler", "_gather_draft_sampled_kernel"): [
        "is_placeholder = (local_pos > 0) & (pos - local_pos < prefill_len)"
    ],
    (f"{V2}.spec_decode.speculator", "DraftModelSpeculator._copy_request_inputs"): [
        "self.idx_mapping.fill_(-1)",
        "self.idx_mapping[num_reqs:].fill_(-1)",
    ],
    (f"{V2}.spec_decode.rejection_sampler", "RejectionSampler._verify_in_chunks"): [
        "processed_logits, sampled, num_sampled = self._verify(",
    ],
    (f"{V2}.spec_decode.rejection_sampler", "RejectionSampler.__call__"): [
        "verify_draft_sampled = draft_sampled.masked_fill(invalid_drafts, -1)"
    ],
    (f"{V2}.sample.sampler", "Sampler.apply_sampling_params"): ["return self.sampling_states.apply_top_k_top_p("],
    (f"{V2}.cudagraph_utils", "profile_cudagraph_memory"): ["if isinstance(value, CudaGraphManager)"],
    (f"{V2}.cudagraph_utils", "CudaGraphManager.capture"): ["forward_fn = create_forward_fn(desc, warmup=True)"],
    ("vllm.v1.attention.backends.flash_attn", "FlashAttentionImpl.forward"): [
        "key_cache, value_cache = kv_cache.transpose(1, 2).split(self.head_size, dim=-1)"
    ],
    ("vllm.v1.attention.backends.triton_attn", "TritonAttentionImpl.forward"): [
        "# KV cache arrives in logical (B, H, N, 2*hs) order."
    ],
    ("vllm.v1.attention.backends.cpu_attn", "CPUAttentionBackendImpl.forward"): [
        "kv_cache = kv_cache.view((num_blocks, num_kv_heads, block_size * 2, -1))"
    ],
    ("vllm.model_executor.layers.attention.attention", "unified_attention_with_output"): ["self.impl.forward("],
    ("vllm.model_executor.layers.attention.attention", "unified_kv_cache_update"): [
        "if layer_slot_mapping is not None:"
    ],
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner.__init__"): [
        "elif self.speculative_config.uses_draft_model():",
        "self.drafter = DraftModelProposer(",
        "self.rejection_sampler = RejectionSampler(",
    ],
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner._sample"): [
        "draft_probs = self._get_spec_decode_draft_probs(spec_decode_metadata)",
        "sampler_output = self.rejection_sampler(",
    ],
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner.propose_draft_token_ids"): [
        "draft_probs = self.drafter.take_last_draft_probs()",
        "self._draft_prob_req_ids = self.input_batch.req_ids.copy()",
    ],
    ("vllm.v1.worker.gpu_input_batch", "InputBatch.refresh_metadata"): [
        "self.sampling_metadata = self._make_sampling_metadata()"
    ],
    ("vllm.v1.spec_decode.llm_base_proposer", "SpecDecodeBaseProposer.propose"): [
        "self._determine_batch_execution_and_padding(num_tokens)",
        "self.build_per_group_and_layer_attn_metadata(",
    ],
    ("vllm.v1.sample.sampler", "Sampler.apply_logits_processors"): ["predict_bonus_token"],
    ("vllm.v1.core.sched.scheduler", "Scheduler.schedule"): ["input_budget -= num_new_tokens + draft_slots"],
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner._get_draft_token_ids_cpu"): [
        "if isinstance(self._draft_token_ids, list):"
    ],
    ("vllm.platforms.cpu", "CpuPlatform.check_and_update_config"): ["scheduler_config.async_scheduling = False"],
    ("vllm.v1.metrics.loggers", "PrometheusStatLogger.record"): ["self.spec_decoding_prom.observe("],
    ("vllm.v1.spec_decode.metrics", "SpecDecodingStats.observe_draft"): [
        "self.num_accepted_tokens_per_pos[i] += 1",
        "self.num_draft_tokens_per_pos[i] += 1",
    ],
    ("vllm.v1.core.kv_cache_utils", "update_kv_cache_capacity"): [
        "get_kv_cache_capacity(vllm_config, kv_cache_config)"
    ],
}


@pytest.mark.parametrize("name", CONTRACTS)
def test_what_is_replaced_still_has_its_shape(name):
    seam = next(seam for seam in SEAMS if seam.name == name)
    original = inspect.unwrap(find(seam.module, seam.name))
    parameters, lines = CONTRACTS[name]
    assert list(inspect.signature(original).parameters) == parameters
    source = inspect.getsource(original)
    for line in lines:
        assert line in source


def test_every_seam_has_a_contract():
    constructors = {seam.name for seam in SEAMS if seam.name.endswith(".__new__")}
    assert {seam.name for seam in SEAMS} == set(CONTRACTS) | constructors | {"NgramGPUTypes"}


@pytest.mark.parametrize(("module", "name"), RELIED_ON)
def test_what_the_adapters_rely_on_is_there(module, name):
    source = inspect.getsource(inspect.unwrap(find(module, name)))
    for line in RELIED_ON[module, name]:
        assert line in source


@pytest.mark.parametrize(
    ("module", "name", "parameters"),
    [
        ("vllm.v1.spec_decode.draft_model", "DraftModelProposer", ["vllm_config", "device", "runner"]),
        ("vllm.v1.sample.rejection_sampler", "RejectionSampler", ["sampler", "spec_config", "device"]),
        (f"{V2}.spec_decode.standalone_ar.speculator", "StandaloneARSpeculator", ["vllm_config", "device"]),
        (
            "vllm.v1.spec_decode.metrics",
            "SpecDecodingProm",
            ["speculative_config", "labelnames", "per_engine_labelvalues", "is_diffusion"],
        ),
    ],
)
def test_constructors_still_choose_by_the_configuration(module, name, parameters):
    cls = find(module, name)
    assert list(inspect.signature(cls.__init__).parameters)[1:] == parameters
    assert cls.__new__.__mtad_seam__ == f"{name}.__new__"


def overriding_classes():
    """Every class of ours that derives from one of vLLM's."""
    found = []
    for package in ("vllm_mtad.runners", "vllm_mtad.config", "vllm_mtad.plugin"):
        root = importlib.import_module(package)
        for info in pkgutil.walk_packages(root.__path__, f"{package}."):
            module = importlib.import_module(info.name)
            found += [
                c
                for c in vars(module).values()
                if inspect.isclass(c)
                and c.__module__ == module.__name__
                and any(base.__module__.split(".")[0] == "vllm" for base in c.__mro__)
            ]
    return found


def test_what_is_overridden_has_its_parents_parameters_in_order_with_their_defaults():
    """Ours may take more, with defaults, and may gather what it hands on."""
    overridden = []
    for cls in overriding_classes():
        parents = [base for base in cls.__mro__[1:] if base.__module__.split(".")[0] == "vllm"]
        for name, own in vars(cls).items():
            parent = next((vars(base)[name] for base in parents if name in vars(base)), None)
            if not inspect.isfunction(own) or not inspect.isfunction(parent) or name in CHANGED_ON_PURPOSE:
                continue
            overridden.append(f"{cls.__name__}.{name}")
            ours, theirs = (list(inspect.signature(f).parameters.values()) for f in (own, parent))
            gathers = any(p.kind is p.VAR_POSITIONAL for p in ours)
            plain = [p for p in ours if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
            expected = theirs[: len(plain)] if gathers else theirs
            assert [(p.name, p.default) for p in plain[: len(expected)]] == [(p.name, p.default) for p in expected], (
                f"{cls.__name__}.{name}"
            )
            assert all(p.default is not p.empty for p in plain[len(expected) :]), f"{cls.__name__}.{name}"
    for expected in ("MTADProposer.propose", "MTADRejectionSampler.forward", "MTADSpeculator.propose"):
        assert expected in overridden
    assert "MTADRejectionSampler._verify" in overridden


CHANGED_ON_PURPOSE = {"__init__", "__repr__"}
"""vLLM's constructors are met by the `__new__` seams, whose contract is above."""
