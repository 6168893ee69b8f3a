"""Dispatch and padding of the CUDA graphs, on a CPU: a graph is replayed by calling what was captured.

What is called sees the captured shape (padded requests and tokens) and the persistent tensors only, as a replay does.
The engine also has a schedule of draft lengths: graphs of several lengths are captured, and batches have no drafts.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from vllm import SamplingParams
from vllm.config.compilation import CUDAGraphMode
from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager

from tests.engine.engines import counters, engine, generate_tokens
from tests.small_pair import random_prompts
from vllm_mtad.algorithm.reference import ReferenceDecoder, ReferenceSettings, hugging_face_model
from vllm_mtad.runners.v2 import graphs

GAMMA, NUM_TOKENS = 3, 10
SCHEDULE = [(1, 2, 3), (3, 3, 1), (4, 4, 0)]
PROMPTS = random_prompts([7, 30, 12, 21], seed=3)


def greedy(**values) -> SamplingParams:
    return SamplingParams(**({"temperature": 0, "max_tokens": NUM_TOKENS, "ignore_eos": True} | values))


def sampled(**values) -> SamplingParams:
    return greedy(temperature=0.9, **values)


REQUESTS = {
    "greedy": [greedy()] * 4,
    "small_top_k": [sampled(seed=1, top_k=20), sampled(seed=2, top_k=5, top_p=0.8), greedy(), sampled(seed=3)],
    "truncated": [sampled(seed=1, top_k=20), sampled(seed=2, top_p=0.8), sampled(seed=3, min_p=0.02), greedy()],
    "not_truncated": [sampled(seed=4), sampled(seed=5), greedy(), sampled(seed=6)],
}


@pytest.mark.parametrize(("most", "buckets"), [(1, [1]), (4, [1, 2, 3, 4]), (20, [1, 2, 3, 4, 6, 8, 12, 16, 20])])
def test_buckets_of_requests(most, buckets):
    assert graphs.request_buckets(most) == buckets


@pytest.fixture(scope="module")
def runner_and_llm(small_pair):
    """An engine in this process, so that its speculator can be reached."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        fields = {"num_speculative_tokens": GAMMA, "num_speculative_tokens_per_batch_size": SCHEDULE}
        with engine(*small_pair, fields, enable_prefix_caching=False) as llm:
            yield llm.llm_engine.model_executor.driver_worker.worker.model_runner, llm


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


@pytest.mark.parametrize(("num_reqs", "drafts_of"), [(1, 3), (3, 1), (4, 0)])
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
        assert tokens < drafts * GAMMA


def test_a_dummy_run_touches_no_request(runner_and_llm, eager):
    """Its requests are named after live ones: their KV and their drafts' log q must stay."""
    runner, llm = runner_and_llm
    generate_tokens(llm, PROMPTS[:2], REQUESTS["greedy"][:2])
    log_q = runner.speculator.beams.log_q.clone()
    kv_caches = [cache.clone() for cache in runner.kv_caches]
    runner._dummy_run(8)
    assert torch.equal(runner.speculator.beams.log_q, log_q)
    for cache, before in zip(runner.kv_caches, kv_caches):
        assert torch.equal(cache, before)


@pytest.fixture(scope="module")
def replayed(runner_and_llm, eager):
    """Captures graphs; returns the descriptors that were replayed."""
    runner, _ = runner_and_llm
    speculator, seen = runner.speculator, set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CudaGraphManager, "capture", capture_for_calling(speculator, seen))
        patch.setattr(graphs, "request_buckets", lambda most: [2, most])
        patch.setattr("vllm.platforms.cpu.CpuPlatform.get_global_graph_pool", lambda self: None)
        support = replace(speculator.attn_cg_support, min_cg_support=AttentionCGSupport.ALWAYS)
        patch.setattr(speculator, "attn_cg_support", support)
        patch.setattr(speculator, "_first_pass_metadata", refreshed_in_place(speculator._first_pass_metadata))
        speculator.init_cudagraph_manager(CUDAGraphMode.FULL_AND_PIECEWISE)
        speculator.capture()
        yield seen


# Not vLLM's sampling states: their device views take turns, and a round copies what it needs of them.
PERSISTENT = ("vllm.v1.worker.gpu.block_table", "vllm.v1.worker.gpu.input_batch")


def tensor_addresses(*owners, depth=3) -> dict[str, int]:
    """Of every tensor that the owners hold, in their attributes' attributes too."""
    found = {}
    for owner in owners if depth else ():
        for name, value in vars(owner).items() if hasattr(owner, "__dict__") else ():
            for i, part in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(part, torch.Tensor):
                    found[f"{type(owner).__name__}.{name}.{i}"] = part.data_ptr()
                elif type(part).__module__ in PERSISTENT or type(part).__module__.startswith("vllm_mtad."):
                    found |= tensor_addresses(part, depth=depth - 1)
    return found


def capture_for_calling(speculator, seen):
    def capture(self, create_forward_fn, progress_bar_desc=""):
        for descriptor in (d for descriptors in self._capture_descs.values() for d in descriptors):
            create_forward_fn(descriptor, warmup=True)(CUDAGraphMode.NONE)
            forward = create_forward_fn(descriptor, warmup=False)
            addresses = tensor_addresses(speculator)

            def replay(descriptor=descriptor, forward=forward, addresses=addresses):
                seen.add(descriptor)
                assert tensor_addresses(speculator) == addresses, "a graph would read a tensor that is no more"
                forward(CUDAGraphMode.NONE)

            self.graphs[descriptor] = SimpleNamespace(replay=replay)
        self._graphs_captured = True

    return capture


def refreshed_in_place(build):
    """A GPU backend's builder refreshes buffers that the graph reads; the CPU's makes new ones."""
    kept = {}

    def build_in_place(num_reqs, descriptor, *args):
        metadata, slots = build(num_reqs, descriptor, *args)
        if descriptor.cg_mode != CUDAGraphMode.FULL:
            return metadata, slots
        captured = kept.setdefault(descriptor, metadata)
        for layer in metadata:
            vars(captured[layer]).update(vars(metadata[layer]))
        return captured, slots

    return build_in_place


@pytest.mark.parametrize("name", REQUESTS)
def test_replays_give_the_same_tokens(runner_and_llm, eager, replayed, name):
    _, llm = runner_and_llm
    for n in (1, 2, 3, 4):
        assert generate_tokens(llm, PROMPTS[:n], REQUESTS[name][:n]) == eager[name, n]


def test_graphs_of_every_kind_were_replayed(replayed):
    beams = {d for d in replayed if isinstance(d, graphs.BeamBatchDescriptor)}
    assert {(d.num_reqs, d.num_speculative_tokens) for d in beams} == {(2, 3), (4, 1)}
    assert {d.truncation for d in beams} == set(graphs.GRAPHED_TRUNCATIONS)
    first_passes = {(d.num_reqs, d.uniform_token_count) for d in replayed - beams}
    # Batches without drafts have 2 tokens a request (the target's row and its newest), and are replayed too.
    assert {tokens for _, tokens in first_passes} == {2, 3, 5}
