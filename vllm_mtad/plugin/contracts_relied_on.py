"""This table lists what no seam replaces in vLLM's source, but the runners rely on (`contract_table` has the rest)."""

from __future__ import annotations

from vllm_mtad.plugin.contracts import Contract

V2 = "vllm.v1.worker.gpu"

RELIED_ON = (
    Contract(
        "vllm.config.vllm",
        "VllmConfig.__post_init__",
        ("not in get_args(NgramGPUTypes)",),
    ),
    Contract(
        f"{V2}.spec_decode",
        "init_speculator",
        ("elif speculative_config.uses_draft_model():", "return StandaloneARSpeculator(vllm_config, device)"),
        runner="v2",
    ),
    Contract(
        f"{V2}.sample.gumbel",
        "_log1p_neg_stable",
        ("direct = tl.log(tl.maximum(1.0 - value",),
        runner="v2",
    ),
    Contract(
        f"{V2}.spec_decode.standalone_ar.speculator",
        "prepare_prefill_inputs",
        ("expanded_input_ids: torch.Tensor", "last_token_indices: torch.Tensor", "return src_tokens + num_reqs"),
        runner="v2",
    ),
    Contract(
        f"{V2}.cudagraph_utils",
        "CudaGraphManager._init_candidates",
        ("self._capture_descs[mode] = descs",),
        runner="v2",
    ),
    Contract(
        "vllm.v1.sample.ops.topk_topp_triton",
        "apply_top_k_top_p_triton",
        ("_TRITON_BUFFER_CACHE[buf_key] = buffer",),
        runner="v2",
    ),
    Contract(
        f"{V2}.model_runner",
        "GPUModelRunner.add_requests",
        ("req_index, new_req_data.block_ids, overwrite=True", "num_computed_tokens=new_req_data.num_computed_tokens,"),
        runner="v2",
    ),
    Contract(
        f"{V2}.model_runner",
        "GPUModelRunner.update_requests",
        ("num_computed_tokens_np[req_index] = num_computed_tokens", "req_index, req_new_block_ids, overwrite=False"),
        runner="v2",
    ),
    Contract(
        f"{V2}.block_table",
        "BlockTables.gather_block_tables",
        ("out = tuple(self.input_block_tables)",),
        runner="v2",
    ),
    Contract(
        f"{V2}.block_table",
        "BlockTables.append_block_ids",
        ("self.num_blocks.np[i, req_index] = end",),
        runner="v2",
    ),
    Contract(
        f"{V2}.model_runner",
        "GPUModelRunner.sample_tokens",
        (
            "draft_tokens[:, num_spec_tokens:] = -1",
            "self.req_states.draft_tokens[input_batch.idx_mapping] = draft_tokens",
        ),
        runner="v2",
    ),
    Contract(
        f"{V2}.model_runner",
        "GPUModelRunner.initialize_kv_cache",
        (
            "self.speculator.set_attn(",
            "self.speculator.init_cudagraph_manager(cudagraph_mode)",
            "self.model_state.initialize_kv_cache(self.kv_cache_config, self.block_tables)",
        ),
        runner="v2",
    ),
    Contract(
        f"{V2}.model_runner",
        "GPUModelRunner.execute_model",
        (
            "block_tables, slot_mappings = self.prepare_attn(input_batch)",
            "attn_metadata = self.model_state.prepare_attn(",
        ),
        runner="v2",
    ),
    Contract(
        f"{V2}.model_runner",
        "GPUModelRunner.gather_batch_req_state",
        (
            "decode_graph_eligible = not has_prefill",
            "return batch_state, get_uniform_decode_token_count(",
            "req_ids = sort_batch_req_ids(",
        ),
        runner="v2",
    ),
    Contract(
        f"{V2}.model_runner",
        "sort_batch_req_ids",
        ("not draft_tokens.get(r),", "return sorted(num_tokens_per_req, key=key)"),
        runner="v2",
    ),
    Contract(
        f"{V2}.sample.sampler",
        "Sampler.add_request",
        ("for processor in self.logits_processors:", "processor.add_request(req_idx, sampling_params)"),
        runner="v2",
    ),
    Contract(
        f"{V2}.cudagraph_utils",
        "prepare_inputs_to_capture",
        ("attn_metadata = model_state.prepare_attn(",),
        runner="v2",
    ),
    Contract(
        f"{V2}.spec_decode.rejection_sampler",
        "_gather_draft_sampled_kernel",
        ("is_placeholder = (local_pos > 0) & (pos - local_pos < prefill_len)",),
        runner="v2",
    ),
    Contract(
        f"{V2}.spec_decode.speculator",
        "DraftModelSpeculator._copy_request_inputs",
        ("self.idx_mapping.fill_(-1)", "self.idx_mapping[num_reqs:].fill_(-1)"),
        runner="v2",
    ),
    Contract(
        f"{V2}.spec_decode.rejection_sampler",
        "RejectionSampler._verify_in_chunks",
        ("processed_logits, sampled, num_sampled = self._verify(",),
        runner="v2",
    ),
    Contract(
        f"{V2}.spec_decode.rejection_sampler",
        "RejectionSampler.__call__",
        ("verify_draft_sampled = draft_sampled.masked_fill(invalid_drafts, -1)",),
        runner="v2",
    ),
    Contract(
        f"{V2}.sample.sampler",
        "Sampler.apply_sampling_params",
        ("return self.sampling_states.apply_top_k_top_p(",),
        runner="v2",
    ),
    Contract(
        f"{V2}.cudagraph_utils",
        "profile_cudagraph_memory",
        ("if isinstance(value, CudaGraphManager)",),
        runner="v2",
    ),
    Contract(
        f"{V2}.cudagraph_utils",
        "CudaGraphManager.capture",
        ("forward_fn = create_forward_fn(desc, warmup=True)",),
        runner="v2",
    ),
    Contract(
        "vllm.v1.attention.backends.flash_attn",
        "FlashAttentionImpl.forward",
        ("key_cache, value_cache = kv_cache.transpose(1, 2).split(self.head_size, dim=-1)",),
        runner="v2",
    ),
    Contract(
        "vllm.v1.attention.backends.triton_attn",
        "TritonAttentionImpl.forward",
        ("# KV cache arrives in logical (B, H, N, 2*hs) order.",),
        runner="v2",
    ),
    Contract(
        "vllm.v1.attention.backends.cpu_attn",
        "CPUAttentionBackendImpl.forward",
        ("kv_cache = kv_cache.view((num_blocks, num_kv_heads, block_size * 2, -1))",),
        runner="v1",
    ),
    Contract(
        "vllm.model_executor.layers.attention.attention",
        "unified_attention_with_output",
        ("self.impl.forward(",),
    ),
    Contract(
        "vllm.model_executor.layers.attention.attention",
        "unified_kv_cache_update",
        ("if layer_slot_mapping is not None:",),
    ),
    Contract(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner.__init__",
        (
            "elif self.speculative_config.uses_draft_model():",
            "self.drafter = DraftModelProposer(",
            "self.rejection_sampler = RejectionSampler(",
        ),
        runner="v1",
    ),
    Contract(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner._sample",
        (
            "draft_probs = self._get_spec_decode_draft_probs(spec_decode_metadata)",
            "sampler_output = self.rejection_sampler(",
        ),
        runner="v1",
    ),
    Contract(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner.propose_draft_token_ids",
        (
            "draft_probs = self.drafter.take_last_draft_probs()",
            "self._draft_prob_req_ids = self.input_batch.req_ids.copy()",
        ),
        runner="v1",
    ),
    Contract(
        "vllm.v1.worker.gpu_input_batch",
        "InputBatch.refresh_metadata",
        ("self.sampling_metadata = self._make_sampling_metadata()",),
        runner="v1",
    ),
    Contract(
        "vllm.v1.spec_decode.llm_base_proposer",
        "SpecDecodeBaseProposer.propose",
        ("self._determine_batch_execution_and_padding(num_tokens)", "self.build_per_group_and_layer_attn_metadata("),
        runner="v1",
    ),
    Contract(
        "vllm.v1.sample.sampler",
        "Sampler.apply_logits_processors",
        ("predict_bonus_token",),
        runner="v1",
    ),
    Contract(
        "vllm.v1.core.sched.scheduler",
        "Scheduler.schedule",
        ("input_budget -= num_new_tokens + draft_slots",),
    ),
    Contract(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner._get_draft_token_ids_cpu",
        ("if isinstance(self._draft_token_ids, list):",),
        runner="v1",
    ),
    Contract(
        "vllm.platforms.cpu",
        "CpuPlatform.check_and_update_config",
        ("scheduler_config.async_scheduling = False",),
        runner="v1",
    ),
    Contract(
        "vllm.v1.metrics.loggers",
        "PrometheusStatLogger.record",
        ("self.spec_decoding_prom.observe(",),
    ),
    Contract(
        "vllm.v1.spec_decode.metrics",
        "SpecDecodingStats.observe_draft",
        ("self.num_accepted_tokens_per_pos[i] += 1", "self.num_draft_tokens_per_pos[i] += 1"),
    ),
    Contract(
        "vllm.v1.core.kv_cache_utils",
        "update_kv_cache_capacity",
        ("get_kv_cache_capacity(vllm_config, kv_cache_config)",),
        runner="v1",
    ),
    Contract(
        "vllm.v1.core.sched.scheduler",
        "Scheduler.schedule",
        (
            "num_spec_tokens_to_schedule = self.num_spec_tokens",
            "num_spec_tokens_to_schedule = self.dynamic_sd_lookup[",
        ),
    ),
    Contract(
        "vllm.model_executor.layers.attention",
        "Attention.__init__",
        ("sliding_window = cache_config.sliding_window",),
    ),
    Contract(
        "vllm.model_executor.layers.attention",
        "Attention.get_kv_cache_spec",
        ("if self.sliding_window is not None:", "return FullAttentionSpec("),
    ),
    Contract(
        f"{V2}.model_runner",
        "GPUModelRunner.__init__",
        ("self.uses_inputs_embeds = (",),
        runner="v2",
    ),
    Contract(
        f"{V2}.model_runner",
        "GPUModelRunner.add_requests",
        ("self.model_state.add_request(req_index, new_req_data)",),
        runner="v2",
    ),
)
