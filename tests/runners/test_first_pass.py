"""What the draft model reads, and what it has missed, against an account of every slot of a small KV cache.

Requests come and go, are preempted, share prefixes, and are decoded in steps with drafts and without. A slot holds the
text that the draft model read when it wrote there, as the tuple of its tokens, so a stale slot cannot pass for a fresh
one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm.v1.attention.backend import CommonAttentionMetadata

from vllm_mtad.runners.draft_holes import DraftHoles
from vllm_mtad.runners.v1.first_pass import FirstPassPlan, TargetStep

BLOCK, NUM_BLOCKS, MAX_LENGTH, MAX_ROWS = 4, 40, 48, 24


@dataclass
class Request:
    tokens: list[int]
    blocks: list[int]
    num_computed: int
    wants_drafts: bool = True


@dataclass
class Pool:
    """A KV cache with prefix sharing, and what each of its slots holds for either model."""

    free: list[int] = field(default_factory=lambda: list(range(1, NUM_BLOCKS)))
    cached: dict[tuple[int, ...], int] = field(default_factory=dict)
    users: dict[int, int] = field(default_factory=dict)
    draft: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def slot(self, request, position):
        return request.blocks[position // BLOCK] * BLOCK + position % BLOCK

    def is_read(self, request, position):
        """Whether the draft model has read the token that stands there."""
        return self.draft.get(self.slot(request, position)) == tuple(request.tokens[: position + 1])

    def admit(self, tokens, wants_drafts):
        shared = []
        while (key := tuple(tokens[: (len(shared) + 1) * BLOCK])) in self.cached and len(key) < len(tokens):
            shared.append(self.cached[key])
        request = Request(list(tokens), shared, len(shared) * BLOCK, wants_drafts)
        for block in shared:
            if block in self.free:
                self.free.remove(block)
            self.users[block] = self.users.get(block, 0) + 1
        return request

    def grow(self, request, length):
        while len(request.blocks) * BLOCK < length:
            block = self.free.pop(0)  # the one that was freed first, as vLLM's
            self.cached = {key: other for key, other in self.cached.items() if other != block}
            self.users[block] = 1
            request.blocks.append(block)

    def cache_full_blocks(self, request):
        for i in range(request.num_computed // BLOCK):
            self.cached.setdefault(tuple(request.tokens[: (i + 1) * BLOCK]), request.blocks[i])

    def release(self, request):
        for block in request.blocks:
            self.users[block] -= 1
            if not self.users[block]:
                self.free.append(block)


def target_step(pool, requests, generator):
    """Each request's next few tokens, some of them rejected drafts; returns what vLLM would hand to the proposer."""
    rows, token_ids, begins, rejected, newest = [], [], [], [], []
    for request in requests:
        left = len(request.tokens) - request.num_computed
        count = left if left > 1 else 1 + int(generator.integers(0, 4))
        if left > 5:  # part of a prompt
            count = 5
        begin, is_decode = request.num_computed, left == 1
        drafts = [int(generator.integers(0, 3)) for _ in range(count - 1)] if is_decode else []
        kept = 1 + int(generator.integers(0, count)) if is_decode else count
        pool.grow(request, begin + count + 1)
        text = request.tokens + drafts
        token_ids += text[begin : begin + count]
        begins.append(begin)
        rejected.append(count - kept)
        if is_decode:
            request.tokens = [*text[: begin + kept], int(generator.integers(0, 3))]
        request.num_computed = begin + kept
        newest.append(request.tokens[request.num_computed] if request.num_computed < len(request.tokens) else 0)
        if len(request.tokens) == request.num_computed:  # the prompt's end
            request.tokens.append(newest[-1])
        rows.append(count)
        pool.cache_full_blocks(request)
    starts = torch.tensor([0, *np.cumsum(rows)], dtype=torch.int32)
    columns = MAX_LENGTH // BLOCK + 4
    table = torch.zeros(len(requests), columns, dtype=torch.int32)
    for i, request in enumerate(requests):
        table[i, : len(request.blocks)] = torch.tensor(request.blocks)
    metadata = CommonAttentionMetadata(
        query_start_loc=starts,
        query_start_loc_cpu=starts,
        seq_lens=torch.zeros(len(requests), dtype=torch.int32),
        num_reqs=len(requests),
        num_actual_tokens=len(token_ids),
        max_query_len=max(rows),
        max_seq_len=MAX_LENGTH,
        block_table_tensor=table,
        slot_mapping=torch.zeros(len(token_ids), dtype=torch.int64),
    )
    return TargetStep.of(
        metadata, torch.tensor(token_ids), np.array(begins), torch.tensor(newest), torch.tensor(rejected), BLOCK
    )


def draft_pass(pool, requests, step, plan):
    """Run the pass that a plan asks for on the account; every row must see nothing but its own text."""
    texts = np.full((len(requests), MAX_LENGTH), -1)
    for i, request in enumerate(requests):
        texts[i, : step.begins[i]] = request.tokens[: step.begins[i]]  # the runner writes the others down later
    tokens = plan.tokens(step, step.kept_rows, texts).tolist()
    owners, positions = plan.positions()
    slots = plan.metadata(step, BLOCK, MAX_LENGTH).slot_mapping.tolist()
    for token, owner, position, slot in zip(tokens, owners, positions, slots, strict=True):
        request = requests[owner]
        assert slot == pool.slot(request, position)
        assert token == request.tokens[position]
        pool.draft[slot] = tuple(request.tokens[: position + 1])
        for before in range(position):  # it attends to these
            assert pool.is_read(request, before), "a hole"


@dataclass
class Tally:
    caught_up: int = 0
    partly: int = 0
    shared_holes: int = 0
    resumed: int = 0


def simulate(seed, max_rows=MAX_ROWS):
    generator, pool, tally = np.random.default_rng(seed), Pool(), Tally()
    holes, requests, drafts = DraftHoles(NUM_BLOCKS, BLOCK), [], True
    for _ in range(120):
        if len(requests) < 3 and generator.random() < 0.5:
            length = int(generator.integers(2, 16))
            prompt = [0] * length if generator.random() < 0.6 else generator.integers(0, 3, length).tolist()
            requests.append(request := pool.admit(prompt, bool(generator.random() < 0.8)))
            tally.shared_holes += any(not pool.is_read(request, p) for p in range(request.num_computed))
        if not requests:
            continue
        step = target_step(pool, requests, generator)
        drafts = drafts if generator.random() < 0.8 else not drafts
        if not drafts:
            holes.open(step.block_table, step.begins, step.ends)
        else:
            begins = holes.first(step.block_table, step.begins)
            wants_drafts = np.array([request.wants_drafts for request in requests])
            plan = FirstPassPlan.of(step, begins, wants_drafts, max_rows)
            assert plan.counts.sum() <= max_rows
            draft_pass(pool, requests, step, plan)
            plan.note(step, holes)
            tally.caught_up += int((plan.is_complete & (begins < step.begins)).sum())
            tally.partly += int((~plan.is_complete & wants_drafts).sum())
        for request in [r for r in requests if len(r.tokens) > MAX_LENGTH - 8 or generator.random() < 0.08]:
            pool.release(request)
            requests.remove(request)
            if len(request.tokens) <= MAX_LENGTH - 8 and generator.random() < 0.5:  # preempted, and resumed
                requests.append(pool.admit(request.tokens, request.wants_drafts))
                tally.resumed += 1
    return tally


@pytest.mark.parametrize("seed", range(40))
def test_no_row_of_the_draft_model_ever_attends_to_a_hole(seed):
    simulate(seed)


def test_the_simulation_meets_what_it_is_for():
    tallies = [simulate(seed) for seed in range(40)]
    for figure in ("caught_up", "partly", "shared_holes", "resumed"):
        assert sum(getattr(tally, figure) for tally in tallies) > 20, figure


def test_a_gap_larger_than_a_pass_is_closed_step_by_step():
    step = SimpleNamespace(begins=np.array([100, 7]), ends=np.array([101, 9]))
    begins, wants = np.array([0, 7]), np.array([True, True])
    plan = FirstPassPlan.of(step, begins, wants, 64)
    assert plan.counts.tolist() == [61, 3]
    assert plan.is_complete.tolist() == [False, True]
    step = SimpleNamespace(begins=np.array([101, 9]), ends=np.array([102, 11]))
    plan = FirstPassPlan.of(step, np.array([61, 9]), wants, 64)
    assert plan.counts.tolist() == [42, 3]
    assert plan.is_complete.all()


def test_a_request_without_drafts_costs_no_catching_up():
    step = SimpleNamespace(begins=np.array([100, 7]), ends=np.array([101, 9]))
    plan = FirstPassPlan.of(step, np.array([0, 7]), np.array([False, True]), 512)
    assert plan.counts.tolist() == [2, 3]
    assert plan.is_complete.tolist() == [False, True]
