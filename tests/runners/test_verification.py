"""The rejection sampler and the request table by themselves, on vLLM's own types and made-up logits."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.logits_processor.builtin import MinTokensLogitsProcessor
from vllm.v1.sample.logits_processor.interface import BatchUpdate
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from vllm_mtad.algorithm.tree import DraftTree
from vllm_mtad.algorithm.warp import WarpParameters, warp
from vllm_mtad.config.options import MTADOptions
from vllm_mtad.runners.v1.branches import VerifiedTree
from vllm_mtad.runners.v1.handover import DraftHandover
from vllm_mtad.runners.v1.proposer import MTADProposer
from vllm_mtad.runners.v1.rejection_sampler import MTADRejectionSampler
from vllm_mtad.runners.v1.request_table import RequestTable

VOCAB, UNKNOWN = 16, torch.inf


def sampler(logprobs_mode="raw_logprobs", **options) -> MTADRejectionSampler:
    config = SimpleNamespace(options=MTADOptions(**options), rejection_sample_method="standard", method="mtad")
    return MTADRejectionSampler(Sampler(logprobs_mode), config, torch.device("cpu"))


def sampling_metadata(num_reqs: int, **values) -> SamplingMetadata:
    nothing = {"top_p": None, "top_k": None, "generators": {}, "max_num_logprobs": None, "prompt_token_ids": None}
    nothing |= {"allowed_token_ids_mask": None, "bad_words_token_ids": {}, "logitsprocs": LogitsProcessors()}
    penalties = {f"{name}_penalties": torch.zeros(num_reqs) for name in ("frequency", "presence", "repetition")}
    given = {"temperature": None, "all_greedy": True, "all_random": False, "no_penalties": True}
    outputs = {"output_token_ids": [[] for _ in range(num_reqs)]}
    return SamplingMetadata(**(nothing | penalties | given | outputs | values))


def step(drafts: list[list[int]]) -> SpecDecodeMetadata:
    """As `GPUModelRunner._calc_spec_decode_metadata` lays the rows out."""
    counts = torch.tensor([len(d) for d in drafts])
    sampled = (counts + 1).cumsum(0)
    is_bonus = torch.zeros(int(sampled[-1]), dtype=torch.bool)
    is_bonus[sampled - 1] = True
    return SpecDecodeMetadata(
        draft_token_ids=torch.tensor([token for d in drafts for token in d], dtype=torch.int32),
        num_draft_tokens=counts.tolist(),
        cu_num_draft_tokens=counts.cumsum(0).int(),
        cu_num_sampled_tokens=sampled.int(),
        target_logits_indices=(~is_bonus).nonzero()[:, 0].int(),
        bonus_logits_indices=(sampled - 1).int(),
        logits_indices=torch.arange(len(is_bonus)),
    )


def handover(log_q, temperature=0.0, discarded=None, log_thresholds=None) -> DraftHandover:
    num_reqs = len(log_q)
    warp = WarpParameters.build(torch.full((num_reqs,), temperature), VOCAB)
    thresholds = torch.tensor(log_thresholds or [MTADOptions().log_threshold] * num_reqs, dtype=torch.float64)
    return DraftHandover(torch.tensor(log_q), warp, None, np.array(discarded or [False] * num_reqs), thresholds)


def logits_that_choose(tokens: list[int]) -> torch.Tensor:
    """One row per token, whose argmax it is."""
    return torch.nn.functional.one_hot(torch.tensor(tokens), VOCAB).float() * 5


def verify(drafts: list[list[int]], log_q, target: list[int], metadata=None, **options) -> list[list[int]]:
    """Greedy verification; `target` is what the target would choose in each of the n_i + 1 rows of each request."""
    output = sampler(**options)(
        step(drafts),
        handover(log_q),
        logits_that_choose(target),
        metadata or sampling_metadata(len(drafts)),
    )
    return output.sampled_token_ids.tolist()


def test_requests_with_different_numbers_of_drafts():
    drafts = [[3, 4, 5], [], [6], [7, 8, 9]]
    target = [*(3, 4, 1, 0), 2, *(6, 10), *(7, 8, 9, 11)]
    assert verify(drafts, [[0.0] * 3] * 4, target) == [
        [3, 4, 1, -1],
        [2, -1, -1, -1],
        [6, 10, -1, -1],
        [7, 8, 9, 11],
    ]


def test_placeholder_drafts_and_unknown_q_are_rejected_for_that_request_only():
    drafts = [[3, 4], [-1, -1], [3, 4]]
    log_q = [[0.0, 0.0], [0.0, 0.0], [UNKNOWN, UNKNOWN]]
    assert verify(drafts, log_q, [3, 4, 5] * 3) == [[3, 4, 5], [3, -1, -1], [3, -1, -1]]


def test_a_draft_that_waited_may_be_longer_than_those_of_the_last_round():
    """Its q is forgotten; the other's draft, of a schedule's shorter length, is judged."""
    drafts, log_q = [[3, 4], [5, 6, 7, 8]], [[0.0, 0.0], [UNKNOWN, UNKNOWN]]
    assert verify(drafts, log_q, [3, 4, 1, *(5, 6, 7, 8, 9)]) == [[3, 4, 1, -1, -1], [5, -1, -1, -1, -1]]


def test_a_step_without_any_draft():
    assert verify([[], []], [[UNKNOWN] * 4] * 2, [3, 9]) == [[3], [9]]


def test_min_tokens_counts_the_accepted_drafts_on_the_last_row_too():
    """8 tokens are out and 10 are asked for: of the rows for tokens 9, 10, 11 and 12, two may not stop."""
    stop, others = 5, [1, 2]
    processor = MinTokensLogitsProcessor(
        SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=4)), torch.device("cpu"), False
    )
    params = SamplingParams(min_tokens=10, stop_token_ids=[stop])
    out = [[7] * 8]
    processor.update_state(BatchUpdate(1, removed=[], moved=[], added=[(0, params, None, out[0])]))
    metadata = sampling_metadata(1, output_token_ids=out, logitsprocs=LogitsProcessors([processor]))
    assert verify([[*others, 3]], [[0.0] * 3], [*others, 3, stop], metadata) == [[*others, 3, stop]]
    assert verify([[*others, stop]], [[0.0] * 3], [*others, stop, 4], metadata) == [[*others, stop, 4]]
    assert verify([[stop, 2, 3]], [[0.0] * 3], [stop, 2, 3, 4], metadata)[0][0] != stop


def test_discarded_requests_leave_their_generator_alone():
    generators = {i: torch.Generator().manual_seed(i) for i in range(2)}
    states = {i: g.get_state() for i, g in generators.items()}
    metadata = sampling_metadata(2, temperature=torch.ones(2), all_greedy=False, all_random=True, generators=generators)
    sampler()(
        step([[], []]),
        handover([[UNKNOWN]] * 2, temperature=1.0, discarded=[True, False]),
        torch.randn(2, VOCAB),
        metadata,
    )
    assert torch.equal(generators[0].get_state(), states[0])
    assert not torch.equal(generators[1].get_state(), states[1])


@pytest.mark.parametrize("mode", ["raw_logprobs", "raw_logits", "processed_logprobs"])
def test_logprobs_modes(mode):
    """T = 0.5: raw values are the model's own, processed ones what was sampled from."""
    logits = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(0))
    drafts = logits[:2].argmax(1).tolist()
    metadata = sampling_metadata(
        1, temperature=torch.tensor([0.5]), all_greedy=False, all_random=True, max_num_logprobs=0
    )
    output = sampler(mode)(
        step([drafts]),
        handover([[-3.0, -3.0]], temperature=0.5, log_thresholds=[-torch.inf]),
        logits.clone(),
        metadata,
    )
    tokens = output.sampled_token_ids[0].tolist()
    assert tokens[:2] == drafts
    expected = {"raw_logprobs": logits.log_softmax(1), "raw_logits": logits}
    expected["processed_logprobs"] = (logits / 0.5).log_softmax(1)
    wanted = expected[mode][torch.arange(3), torch.tensor(tokens)]
    torch.testing.assert_close(output.logprobs_tensors.logprobs[:, 0], wanted, atol=1e-5, rtol=1e-5)


def runner(params: list[SamplingParams]) -> SimpleNamespace:
    """As much of a GPUModelRunner as the table and the handover read."""
    names = [f"r{i}" for i in range(len(params))]
    batch = SimpleNamespace(
        req_ids=names,
        num_reqs=len(names),
        sampling_metadata=object(),
        temperature_cpu_tensor=torch.tensor([p.temperature for p in params]),
        top_k_cpu_tensor=torch.tensor([p.top_k or VOCAB for p in params], dtype=torch.int32),
        top_p_cpu_tensor=torch.tensor([p.top_p for p in params]),
    )
    return SimpleNamespace(
        input_batch=batch,
        requests={
            name: SimpleNamespace(sampling_params=p, mm_features=[], prompt_embeds=None)
            for name, p in zip(names, params)
        },
        device=torch.device("cpu"),
        model_config=SimpleNamespace(get_vocab_size=lambda: VOCAB, seed=0),
        parallel_config=SimpleNamespace(data_parallel_index=0),
        discard_request_mask=SimpleNamespace(np=np.zeros(8, dtype=bool)),
    )


def test_seeds_of_any_size_are_kept_apart_and_unseeded_ones_repeat_with_the_engine():
    params = [SamplingParams(seed=s) for s in (0, 2**63 - 1, 2**63, 2**64 - 1)] + [SamplingParams()] * 2
    tables = [RequestTable(runner(params), MTADOptions()) for _ in range(2)]
    for table in tables:
        table.refresh()
    assert len(set(tables[0].seeds.tolist())) == 6
    assert torch.equal(tables[0].seeds, tables[1].seeds), "ranks of one engine must draft the same"


def test_the_table_follows_the_batch():
    of = runner([SamplingParams(temperature=0), SamplingParams(top_k=5)])
    table = RequestTable(of, MTADOptions(greedy="joint"))
    table.refresh()
    assert table.joint_greedy.tolist() == table.deterministic.tolist() == [True, False]
    assert table.lossless.tolist() == [False, False]
    before = table.warp
    table.refresh()
    assert table.warp is before
    of.input_batch.sampling_metadata = object()
    of.input_batch.req_ids.reverse()
    of.input_batch.temperature_cpu_tensor = of.input_batch.temperature_cpu_tensor.flip(0)
    table.refresh()
    assert table.joint_greedy.tolist() == [False, True]


def test_a_prompt_that_is_not_text_has_no_drafts():
    of = runner([SamplingParams()] * 3)
    of.requests["r1"].mm_features = ["an image"]
    of.requests["r2"].prompt_embeds = torch.zeros(4, 8)
    table = RequestTable(of, MTADOptions())
    table.refresh()
    assert table.undrafted.tolist() == [False, True, True]


@pytest.mark.parametrize("num_candidates", [1, 2])
def test_greedy_requests_of_both_kinds_share_a_batch(num_candidates):
    params = [SamplingParams(temperature=0, extra_args={"mtad_greedy": greedy}) for greedy in ("joint", "lossless")]
    options = MTADOptions(num_candidates=num_candidates, max_candidate_rows=100)
    table = RequestTable(runner([*params, SamplingParams()]), options)
    table.refresh()
    assert table.joint_greedy.tolist() == [True, False, False]
    assert table.lossless.tolist() == [False, True, False]
    assert table.deterministic.tolist() == [True, num_candidates > 1, False]
    logits = torch.randn(3, VOCAB)
    p, q_of_trees = (warp(logits.clone(), parameters).log_probs for parameters in (table.warp, table.tree_warp))
    torch.testing.assert_close(p[[0, 2]], logits[[0, 2]].log_softmax(1))
    assert p[1].exp().tolist() == torch.nn.functional.one_hot(logits[1].argmax(), VOCAB).tolist()
    torch.testing.assert_close(q_of_trees, logits.log_softmax(1) if num_candidates > 1 else p)


def test_handover_follows_a_reordered_batch_and_marks_new_requests():
    of = runner([SamplingParams()] * 3)
    proposer = SimpleNamespace(
        _verification=None,
        requests=RequestTable(of, MTADOptions()),
        runner=of,
        options=MTADOptions(),
        device=torch.device("cpu"),
    )
    hand_over = MTADProposer.hand_over
    log_q = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    assert hand_over(proposer, log_q, ["r2", "r0"]).log_q.tolist() == [[-3, -4], [UNKNOWN] * 2, [-1, -2]]
    assert hand_over(proposer, None, None).log_q.tolist() == [[UNKNOWN] * 4] * 3


def test_trees_and_chains_in_one_step():
    """The first request's other candidate wins; of the second the target has seen the chosen draft only; the third has
    lost its last node to a cut; the fourth has none. Of three candidates a depth at most two are there."""
    tree, chain = [3, 4, 6, -1, 7, -1], [3, 4, -1, -1, -1, -1]
    tokens = torch.tensor([tree, chain, tree, [-1] * 6])
    trees = DraftTree(tokens, torch.zeros(4, 6), torch.tensor([[0, 1, 0, 0, 3, 0]] * 4), gamma=2)
    scheduled = [4, 2, 3, 0]
    verified = [VerifiedTree.of(t, p, n) for t, p, n in zip(tokens.tolist(), trees.parents.tolist(), scheduled)]
    kept: list[int] = []
    verification = SimpleNamespace(trees=trees, verified=verified, keep=kept.extend)
    drafts = [[3, 4, 6, 7], [3, 4], [3, 4, 6], []]
    target = [*(6, 0, 0, 7, 9), *(3, 8, 0), *(6, 0, 0, 7), 5]
    given = replace(handover([[UNKNOWN] * 4] * 4), verification=verification)
    output = sampler(num_candidates=3)(step(drafts), given, logits_that_choose(target), sampling_metadata(4))
    assert output.sampled_token_ids.tolist() == [[6, 7, 9], [3, 8, -1], [6, 7, -1], [5, -1, -1]]
    assert kept == [4, 1, 3, 0]


@pytest.mark.parametrize(
    "asked",
    [
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"bad_words": ["no"]},
        {"min_tokens": 3},
        {"logprobs": 0},
        {"structured_outputs": StructuredOutputsParams(regex="a+")},
        {"thinking_token_budget": 8},
    ],
)
def test_what_is_applied_row_after_row_makes_a_chain_of_its_request(asked):
    table = RequestTable(runner([SamplingParams(**asked), SamplingParams(top_k=3)]), MTADOptions(num_candidates=2))
    table.refresh()
    assert table.chain_only.tolist() == [True, False]


def test_trees_of_greedy_requests_are_searched_unwarped():
    params = [SamplingParams(temperature=0), SamplingParams(top_k=3)]
    table = RequestTable(runner(params), MTADOptions(num_candidates=2))
    table.refresh()
    logits = torch.randn(2, VOCAB)
    q = warp(logits.clone(), table.tree_warp)
    assert torch.allclose(q.log_probs[0], logits[0].log_softmax(0))
    assert (q.log_probs[1] > -torch.inf).sum() == 3
    assert table.deterministic.tolist() == [True, False]
    assert (warp(logits.clone(), table.warp).log_probs[0] > -torch.inf).sum() == 1
