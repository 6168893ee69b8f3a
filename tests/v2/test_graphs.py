"""Dispatch and padding of the CUDA graphs, on a CPU: a graph is replayed by calling what was captured.

What is called sees the captured shape (padded requests and tokens), and is watched for what a graph cannot do
(`capture`). The draft counts as compiled, so that batches with prefills run in pieces. The engine also has a schedule
of draft lengths: graphs of several lengths are captured, and batches have no drafts. A single request has two
candidates, and the target has graphs of both widths.
"""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from vllm import SamplingParams
from vllm.config.compilation import CUDAGraphMode
from vllm.forward_context import get_forward_context
from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager, ModelCudaGraphManager

from tests.engine.engines import counters, engine, generate_tokens
from tests.small_pair import VOCAB_SIZE, random_prompts
from tests.v2.capture import Captured
from vllm_mtad.algorithm.reference import ReferenceDecoder, ReferenceSettings, hugging_face_model
from vllm_mtad.runners.v2 import graphs

GAMMA, NUM_TOKENS = 3, 10
SCHEDULE = [(1, 2, 3), (3, 3, 1), (4, 4, 0)]
CANDIDATES, ROWS = 2, 1 + 2 * GAMMA
"""The target's rows for a request with several candidates. Two requests would have too many, and have one."""
PROMPTS = random_prompts([7, 30, 12, 21], seed=3)


def greedy(**values) -> SamplingParams:
    return SamplingParams(**({"temperature": 0, "max_tokens": NUM_TOKENS, "ignore_eos": True} | values))


def sampled(**values) -> SamplingParams:
    return greedy(temperature=0.9, **values)


REQUESTS = {
    "greedy": [greedy()] * 4,
    "small_top_k": [sampled(seed=1, top_k=20), sampled(seed=2, top_k=5, top_p=0.8), greedy(), sampled(seed=3)],
    "truncated": [sampled(seed=1, top_k=20), sampled(seed=2, top_p=0.8), sampled(seed=3, min_p=0.02), greedy()],
    "not_truncated": [sampled(seed=4), sampled(seed=5), greedy(), sampled(seed=6, max_tokens=4)],  # drafting comes back
}


@pytest.mark.parametrize(("most", "buckets"), [(1, [1]), (4, [1, 2, 3, 4]), (20, [1, 2, 3, 4, 6, 8, 12, 16, 20])])
def test_buckets_of_requests(most, buckets):
    assert graphs.request_buckets(most) == buckets


@pytest.fixture(scope="module")
def runner_and_llm(small_pair):
    """In this process the speculator can be reached."""
    fields = {"num_speculative_tokens": GAMMA, "num_speculative_tokens_per_batch_size": SCHEDULE}
    fields |= {"num_candidates": CANDIDATES, "max_candidate_rows": ROWS}
    with engine(*small_pair, fields, enable_prefix_caching=False) as llm:
        yield llm.llm_engine.model_executor.driver_worker.worker.model_runner, llm


def test_where_nobody_wants_drafts_their_places_hold_tokens(runner_and_llm, monkeypatch):
    """The target may read them. Four requests have no drafts, and vLLM overwrites what it was given for them by -1."""
    runner, llm = runner_and_llm
    propose, given = runner.speculator.propose, []
    generate_tokens(llm, PROMPTS, [greedy()] * 4)

    def recorded(*args, **kwargs):
        drafts = propose(*args, **kwargs)
        given.append((kwargs["num_speculative_tokens"], drafts.clone()))
        return drafts

    monkeypatch.setattr(runner.speculator, "propose", recorded)
    generate_tokens(llm, PROMPTS[:1], greedy(extra_args={"mtad": False}))
    asked = [drafts for num_drafts, drafts in given if num_drafts]
    assert asked
    assert all(((drafts >= 0) & (drafts < VOCAB_SIZE)).all() for drafts in asked)


@pytest.fixture(scope="module")
def eager(runner_and_llm):
    """What each kind of requests gives without graphs, by batch size."""
    _, llm = runner_and_llm
    return {
        (name, n): generate_tokens(llm, PROMPTS[:n], params[:n])
        for name, params in REQUESTS.items()
        for n in (1, 2, 3, 4)
    }


def test_greedy_text_is_the_targets_own_whatever_the_schedule(eager, small_pair):
    decoder = ReferenceDecoder(*map(hugging_face_model, small_pair), ReferenceSettings(GAMMA, 1, temperature=0.0))
    expected = [decoder.generate(prompt, NUM_TOKENS).tokens for prompt in PROMPTS]
    for n in (1, 2, 3, 4):
        assert eager["greedy", n] == expected[:n]


@pytest.mark.parametrize(("num_reqs", "drafts_of"), [(1, ROWS - 1), (3, 1), (4, 0)])
def test_the_schedule_of_draft_lengths_is_respected(runner_and_llm, eager, num_reqs, drafts_of):
    _, llm = runner_and_llm
    before = counters(llm)
    generate_tokens(llm, PROMPTS[:num_reqs], REQUESTS["greedy"][:num_reqs])
    drafts, tokens = (
        counters(llm)[f"spec_decode_{n}"] - before[f"spec_decode_{n}"] for n in ("num_drafts", "num_draft_tokens")
    )
    if drafts_of == 0:
        assert tokens == 0
    elif num_reqs == 1:
        assert tokens == drafts * drafts_of > 0
    else:  # requests end one by one, and smaller batches draft more
        assert drafts > 0
        assert tokens < drafts * (ROWS - 1)


def test_a_dummy_run_touches_no_request(runner_and_llm, eager):
    """Its requests are named after live ones: their KV and their drafts' log q must stay."""
    runner, llm = runner_and_llm
    generate_tokens(llm, PROMPTS[:2], REQUESTS["greedy"][:2])
    log_q = runner.speculator.beams.trees.log_q.clone()
    kv_caches = [cache.clone() for cache in runner.kv_caches]
    runner._dummy_run(8)
    assert torch.equal(runner.speculator.beams.trees.log_q, log_q)
    for cache, before in zip(runner.kv_caches, kv_caches):
        assert torch.equal(cache, before)


PIECE_SIZES, TARGET_SIZES = [8, 48], [4, 8]


@pytest.fixture(scope="module")
def replayed(runner_and_llm, eager):
    """Captures graphs; returns the descriptors that were replayed."""
    runner, _ = runner_and_llm
    seen, metadata = set(), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CudaGraphManager, "capture", capture_for_calling(seen, metadata))
        patch.setattr("vllm.platforms.cpu.CpuPlatform.get_global_graph_pool", lambda self: None)
        for layer in runner.compilation_config.static_forward_context.values():
            patch.setattr(layer, "use_direct_call", True)  # not as an operator, inside of which nothing can be watched
        capture_target(runner, patch, metadata)
        hook = capture_speculator(runner.speculator, patch, metadata, seen)
        seen.clear()
        yield seen
        hook.remove()


def capture_target(runner, patch, metadata):
    """With vLLM's own manager."""
    config, state = runner.compilation_config, runner.model_state._state
    patch.setattr(state, "prepare_attn", renewing_target_s(state.prepare_attn, metadata))
    patch.setattr(config, "cudagraph_capture_sizes", TARGET_SIZES)
    patch.setattr(config, "max_cudagraph_capture_size", 2 * ROWS)
    mode, width = CUDAGraphMode.FULL_DECODE_ONLY, runner.decode_query_len
    manager = ModelCudaGraphManager(runner.vllm_config, runner.device, mode, width)
    patch.setattr(runner, "cudagraph_manager", manager)
    of_attention = runner.block_tables, runner.attn_groups, runner.kv_cache_config
    manager.capture(runner.model, runner.model_state, runner.input_buffers, None, *of_attention)


def capture_speculator(speculator, patch, metadata, seen):
    patch.setattr(graphs, "request_buckets", lambda most: [2, most])
    support = replace(speculator.attn_cg_support, min_cg_support=AttentionCGSupport.ALWAYS)
    patch.setattr(speculator, "attn_cg_support", support)
    patch.setattr(speculator.first_pass, "metadata", renewing(speculator.first_pass.metadata, metadata))
    patch.setattr("vllm_mtad.runners.v2.speculator.has_compiled_submodule", lambda model: True)
    patch.setattr(speculator.vllm_config.compilation_config, "cudagraph_capture_sizes", PIECE_SIZES)
    find = speculator.first_pass.descriptor
    patch.setattr(speculator.first_pass, "descriptor", lambda *args: noted(find(*args), seen))
    hook = speculator.model.register_forward_pre_hook(PieceInputs(), with_kwargs=True)
    speculator.init_cudagraph_manager(CUDAGraphMode.FULL_AND_PIECEWISE)
    speculator.capture()
    return hook


def noted(descriptor, seen):
    seen.add(("draft", descriptor))
    return descriptor


def capture_for_calling(seen, metadata):
    """Of CudaGraphManager. `seen` gets (model, descriptor) of what is replayed."""

    def capture(self, create_forward_fn, progress_bar_desc=""):
        model = "target" if isinstance(self, ModelCudaGraphManager) else "draft"
        for mode in (CUDAGraphMode.PIECEWISE, CUDAGraphMode.FULL):
            for descriptor in self._capture_descs.get(mode, []):
                create_forward_fn(descriptor, warmup=True)(CUDAGraphMode.NONE)
                if mode == CUDAGraphMode.PIECEWISE:
                    create_forward_fn(descriptor, warmup=False)(CUDAGraphMode.PIECEWISE)
                else:
                    self.graphs[descriptor] = graph_of(create_forward_fn, descriptor, model)
        self._graphs_captured = True

    def graph_of(create_forward_fn, descriptor, model):
        def function():
            return partial(create_forward_fn(descriptor, warmup=False), CUDAGraphMode.NONE)

        shape = (model, descriptor.num_reqs, descriptor.num_tokens)
        captured = Captured(function(), function, lambda: tensors_of(metadata.get(shape, {})))

        def replay():
            seen.add((model, descriptor))
            captured.replay()

        return SimpleNamespace(replay=replay)

    return capture


def tensors_of(metadata) -> list[torch.Tensor]:
    return [value for layer in metadata.values() for value in vars(layer).values() if isinstance(value, torch.Tensor)]


def renewing(build, kept):
    """A GPU backend's builder refreshes buffers that the graph reads; the CPU's makes new ones."""

    def build_in_place(num_reqs, descriptor, *args):
        metadata, slots = build(num_reqs, descriptor, *args)
        if descriptor.cg_mode == CUDAGraphMode.FULL:
            metadata = renew(kept, ("draft", descriptor.num_reqs, descriptor.num_tokens), metadata)
        return metadata, slots

    return build_in_place


def renewing_target_s(prepare, kept):
    """The same, of vLLM's model state."""

    def prepare_in_place(input_batch, mode, *args, for_capture=False):
        metadata = prepare(input_batch, mode, *args, for_capture=for_capture)
        if for_capture or mode == CUDAGraphMode.FULL:
            shape = (input_batch.num_reqs_after_padding, input_batch.num_tokens_after_padding)
            metadata = renew(kept, ("target", *shape), metadata)
        return metadata

    return prepare_in_place


def renew(kept, shape, metadata):
    captured = kept.setdefault(shape, metadata)
    for layer in metadata:
        vars(captured[layer]).update(vars(metadata[layer]))
    return captured


class PieceInputs:
    """Pieces read ids and positions where they were at capture, and there are none for a size that was not captured."""

    def __init__(self) -> None:
        self._captured = {}

    def __call__(self, model, args, kwargs) -> None:
        context = get_forward_context()
        if context.cudagraph_runtime_mode != CUDAGraphMode.PIECEWISE:
            return
        size = context.batch_descriptor.num_tokens
        inputs = [(len(kwargs[name]), kwargs[name].data_ptr()) for name in ("input_ids", "positions")]
        assert self._captured.setdefault(size, inputs) == inputs
        assert size in PIECE_SIZES


@pytest.mark.parametrize("name", REQUESTS)
def test_replays_give_the_same_tokens(runner_and_llm, eager, replayed, name):
    _, llm = runner_and_llm
    for n in (1, 2, 3, 4):
        assert generate_tokens(llm, PROMPTS[:n], REQUESTS[name][:n]) == eager[name, n]


def test_graphs_of_every_kind_were_replayed(replayed):
    by_draft = {descriptor for model, descriptor in replayed if model == "draft"}
    beams = {d for d in by_draft if isinstance(d, graphs.BeamBatchDescriptor)}
    assert {(d.num_reqs, d.num_speculative_tokens) for d in beams} == {(2, ROWS - 1), (2, GAMMA), (4, 1)}
    assert {d.truncation for d in beams} == set(graphs.GRAPHED_TRUNCATIONS)
    first_passes = by_draft - beams
    full = {d for d in first_passes if d.cg_mode == CUDAGraphMode.FULL}
    # A batch that is drafted for again has 2 tokens a request: the target's row and its newest.
    assert {d.uniform_token_count for d in full} == {2, 3, GAMMA + 2, ROWS + 1}
    # Batches with prefills run in pieces; eagerly where they have more tokens than vLLM captures.
    assert {d.num_tokens for d in first_passes if d.cg_mode == CUDAGraphMode.PIECEWISE} == set(PIECE_SIZES)
    assert all(d.num_tokens > max(PIECE_SIZES) for d in first_passes if d.cg_mode == CUDAGraphMode.NONE)


def test_the_target_s_graphs_of_chains_and_of_trees_were_replayed(replayed):
    by_target = {descriptor for model, descriptor in replayed if model == "target"}
    assert {d.uniform_token_count for d in by_target} == {1, 2, GAMMA + 1, ROWS}
