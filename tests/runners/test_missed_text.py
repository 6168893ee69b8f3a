"""V2's account of what the draft model has missed, in the small KV cache of `test_first_pass`.

The account knows a text's length only from above, and a request may find blocks that another one fills in the same
step, as vLLM's scheduler hands them out before they are computed. What a pass writes past the text that is committed,
or for a request that still has holes, is no text's.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from tests.runners.test_first_pass import BLOCK, MAX_LENGTH, Pool, target_step
from vllm_mtad.runners.v2.missed_text import MissedText, Span

NUM_STATES, NUM_BLOCKS, MAX_LAG, MAX_ROWS = 4, 66, 6, 14
NO_TEXT = ("no text",)


@dataclass
class Tally:
    caught_up: int = 0
    unfinished: int = 0
    shared_holes: int = 0
    resumed: int = 0
    in_the_same_step: int = 0


class Simulation:
    def __init__(self, seed):
        self.generator, self.pool, self.tally = np.random.default_rng(seed), Pool(list(range(1, NUM_BLOCKS))), Tally()
        self.missed = MissedText((NUM_STATES, MAX_LENGTH // BLOCK + 8), [1, 3], 2 * NUM_BLOCKS, BLOCK, MAX_LAG)
        self.tables = SimpleNamespace(append_block_ids=lambda req_index, new_block_ids, overwrite: None)
        self.missed.follow(self.tables)
        self.requests, self.noted, self.seen = {}, {}, set()  # by state

    def admit(self, tokens, wants_drafts=True):
        state = next(state for state in self.generator.permutation(NUM_STATES) if state not in self.requests)
        self.requests[state] = request = self.pool.admit(tokens, wants_drafts)
        self.tables.append_block_ids(int(state), self.in_groups(request.blocks), overwrite=True)
        self.noted[state] = len(request.blocks)
        self.seen.discard(state)
        self.tally.shared_holes += any(not self.pool.is_read(request, p) for p in range(request.num_computed))
        return state

    @staticmethod
    def in_groups(blocks):
        """By KV group: two have layers of the draft."""
        return [], list(blocks), [], [NUM_BLOCKS + block for block in blocks]

    def step(self, drafts):
        """The target's step over some requests, then the draft model's if there are `drafts`."""
        num_reqs = int(self.generator.integers(1, len(self.requests) + 1))
        spans = [self.target(state) for state in self.generator.permutation(list(self.requests))[:num_reqs]]
        if len(self.requests) < NUM_STATES and self.generator.random() < 0.2:
            found = list(self.requests.values())[-1].tokens
            state = self.admit(found[: max(2, len(found) - int(self.generator.integers(0, 5)))])
            spans.append(self.target(state))
            self.tally.in_the_same_step += 1
        span = Span(
            *map(np.array, zip(*[(s, begin + lag, n, lag == 0, wants) for s, begin, lag, n, wants, _ in spans]))
        )
        if not drafts:
            self.missed.skip(span)
            return
        to_read = self.missed.take(span, MAX_ROWS)
        unfinished = set() if to_read is None else set(to_read.unfinished.tolist())
        if to_read is not None:
            assert to_read.counts.sum() <= MAX_ROWS
            begin_of = {state: begin for state, begin, *_ in spans}
            for state, position in zip(*to_read.rows()):
                assert self.requests[state].wants_drafts
                self.read(self.requests[state], position, is_text=position < begin_of[state])
            self.tally.caught_up += len(to_read.states)
            self.tally.unfinished += len(unfinished)
        for state, begin, _, _, _, end in spans:
            request = self.requests[state]
            for position in range(begin, end + 1):
                self.read(request, position, is_text=state not in unfinished and position < len(request.tokens))

    def target(self, state):
        """(state, first position, by how much the account takes it for more, rows, whether it wants drafts, end)."""
        request = self.requests[state]
        is_decode = len(request.tokens) - request.num_computed == 1
        # Of new requests, and of parts of prompts, it is exact.
        lag = int(self.generator.integers(0, MAX_LAG + 1)) if state in self.seen and is_decode else 0
        self.seen.add(state)
        self.pool.grow(request, request.num_computed + MAX_LAG + 8)
        step = target_step(self.pool, [request], self.generator)
        if new := request.blocks[self.noted[state] :]:
            self.tables.append_block_ids(int(state), self.in_groups(new), overwrite=False)
            self.noted[state] = len(request.blocks)
        rows = int(step.metadata.query_start_loc[1])
        return int(state), int(step.begins[0]), lag, rows, request.wants_drafts, int(step.ends[0])

    def read(self, request, position, is_text):
        if is_text:
            for before in range(position):
                assert self.pool.is_read(request, before), "a hole"
        slot = self.pool.slot(request, position)
        self.pool.draft[slot] = tuple(request.tokens[: position + 1]) if is_text else NO_TEXT

    def run(self):
        drafts = True
        for _ in range(120):
            if len(self.requests) < 3 and self.generator.random() < 0.5:
                length = int(self.generator.integers(2, 16))
                is_common = self.generator.random() < 0.6
                prompt = [0] * length if is_common else self.generator.integers(0, 3, length).tolist()
                self.admit(prompt, bool(self.generator.random() < 0.8))
            if not self.requests:
                continue
            drafts = drafts if self.generator.random() < 0.8 else not drafts
            self.step(drafts)
            for state, request in list(self.requests.items()):
                if len(request.tokens) > MAX_LENGTH - 16 or self.generator.random() < 0.06:
                    self.pool.release(self.requests.pop(state))
                    if len(request.tokens) <= MAX_LENGTH - 16 and self.generator.random() < 0.5:
                        self.admit(request.tokens, request.wants_drafts)  # preempted, and resumed
                        self.tally.resumed += 1
        return self.tally


@pytest.mark.parametrize("seed", range(40))
def test_no_row_of_a_text_ever_attends_to_a_hole(seed):
    Simulation(seed).run()


def test_the_simulation_meets_what_it_is_for():
    tallies = [Simulation(seed).run() for seed in range(40)]
    for figure in ("caught_up", "unfinished", "shared_holes", "resumed", "in_the_same_step"):
        assert sum(getattr(tally, figure) for tally in tallies) > 20, figure


def span(state, begin, count, is_exact=False, wants_drafts=True):
    return Span(*map(np.array, ([state], [begin], [count], [is_exact], [wants_drafts])))


def test_until_a_step_without_drafts_nothing_is_accounted():
    missed = MissedText((2, 8), [0], 16, BLOCK, MAX_LAG)
    missed.note_blocks(0, [[3, 4]], is_new=True)
    assert missed.take(span(0, 0, 5), 100) is None
    missed.skip(span(0, 5, 1))
    to_read = missed.take(span(0, 6, 1), 100)
    assert to_read.begins.tolist() == [0]  # it may have been ahead of itself by MAX_LAG
    assert to_read.counts.tolist() == [6]
    assert missed.take(span(0, 7, 1), 100) is None
    missed.skip(span(0, 7, 1, is_exact=True))
    assert missed.take(span(0, 8, 1), 100).begins.tolist() == [7]


def test_what_was_read_is_not_read_again_by_another_request_that_finds_it():
    missed = MissedText((2, 8), [0], 16, BLOCK, MAX_LAG)
    missed.note_blocks(0, [[3, 4, 5, 6]], is_new=True)
    missed.skip(span(0, 0, 7))
    assert missed.take(span(0, 7, 1), 100).counts.tolist() == [7]
    missed.take(span(0, 8, 6), 100)
    missed.note_blocks(1, [[3, 4, 5, 7]], is_new=True)
    assert missed.take(span(1, 12, 1, is_exact=True), 100) is None
    # Blocks that were given to nobody since may hold what a text long gone has left: of the fourth the first token.
    missed.skip(span(0, 14, 1))
    missed.note_blocks(1, [[6]], is_new=True)
    missed.take(span(1, 0, 4, is_exact=True), 100)
    missed.note_blocks(0, [[6]], is_new=True)
    assert missed.take(span(0, 4, 1, is_exact=True), 100) is None


def test_nothing_is_read_for_who_wants_no_drafts():
    missed = MissedText((2, 8), [0], 16, BLOCK, MAX_LAG)
    for state in (0, 1):
        missed.note_blocks(state, [[3 + state]], is_new=True)
        missed.skip(span(state, 0, 3, is_exact=True))
    assert missed.take(span(0, 3, 1, wants_drafts=False), 100).counts.tolist() == []
    assert missed.take(span(1, 3, 1), 100).counts.tolist() == [3]


def test_what_a_new_request_has_found_is_read_before_it_is_drafted_for():
    missed = MissedText((2, 8), [0], 16, BLOCK, MAX_LAG)
    missed.note_blocks(0, [[3, 4]], is_new=True)
    missed.skip(span(0, 0, 8, is_exact=True))
    missed.note_blocks(1, [[3, 4, 5]], is_new=True)
    assert missed.take(span(1, 8, 1, is_exact=True), 100).counts.tolist() == [8]


def test_blocks_that_somebody_fills_in_the_same_step_are_holes_if_theirs_is_one():
    """The first cannot read all in this step; the second has found its last block, and the third the second's."""
    missed = MissedText((3, 8), [0], 16, BLOCK, MAX_LAG)
    missed.note_blocks(0, [[3, 4, 5]], is_new=True)
    missed.skip(span(0, 0, 10, is_exact=True))
    missed.take(span(0, 10, 1), 10)
    missed.skip(span(0, 0, 10, is_exact=True))
    missed.note_blocks(1, [[3, 4, 5, 6]], is_new=True)
    missed.note_blocks(2, [[3, 4, 5, 6, 7]], is_new=True)
    step = Span(*map(np.array, ([0, 1, 2], [10, 12, 16], [2, 4, 1], [True] * 3, [True] * 3)))
    assert missed.take(step, 4).unfinished.tolist() == [0, 1, 2]
    assert sorted(missed.take(step, 100).states.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("which", [0, 1])
def test_a_text_may_find_one_request_s_blocks_in_one_group_and_another_s_in_another(which):
    """What the second computed by itself has no holes; the third finds half of each."""
    missed = MissedText((3, 8), [0, 1], 16, BLOCK, MAX_LAG)
    with_holes, without = [[3], [4]], [[5], [6]]
    missed.note_blocks(0, with_holes, is_new=True)
    missed.skip(span(0, 0, BLOCK, is_exact=True))
    missed.note_blocks(1, without, is_new=True)
    missed.take(span(1, 0, BLOCK, is_exact=True), 100)
    found = [with_holes[group] if group == which else without[group] for group in (0, 1)]
    missed.note_blocks(2, found, is_new=True)
    assert missed.take(span(2, BLOCK, 1, is_exact=True), 100).counts.tolist() == [BLOCK]
    missed.note_blocks(2, without, is_new=True)
    assert missed.take(span(2, BLOCK, 1, is_exact=True), 100) is None
