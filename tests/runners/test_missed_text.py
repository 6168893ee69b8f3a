"""V2's account of what the draft model has missed, in the small KV cache of `test_first_pass`.

The account knows a text's length only from above. What a pass writes past the text that is committed, or for a request
that still has holes, is no text's.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from tests.runners.test_first_pass import BLOCK, MAX_LENGTH, NUM_BLOCKS, Pool, target_step
from vllm_mtad.runners.v2.missed_text import MissedText

NUM_STATES, MAX_LAG, MAX_ROWS = 4, 6, 14
NO_TEXT = ("no text",)


@dataclass
class Tally:
    caught_up: int = 0
    unfinished: int = 0
    shared_holes: int = 0
    resumed: int = 0


class Simulation:
    def __init__(self, seed):
        self.generator, self.pool, self.tally = np.random.default_rng(seed), Pool(), Tally()
        self.missed = MissedText((NUM_STATES, MAX_LENGTH // BLOCK + 8), NUM_BLOCKS, BLOCK, MAX_LAG)
        self.tables = SimpleNamespace(append_block_ids=lambda req_index, new_block_ids, overwrite: None)
        self.missed.follow(self.tables, group=1)
        self.requests, self.noted, self.seen = {}, {}, set()  # by state

    def admit(self, tokens, wants_drafts=True):
        state = next(state for state in self.generator.permutation(NUM_STATES) if state not in self.requests)
        self.requests[state] = request = self.pool.admit(tokens, wants_drafts)
        self.tables.append_block_ids(int(state), ([], list(request.blocks)), overwrite=True)
        self.noted[state] = len(request.blocks)
        self.seen.discard(state)
        self.tally.shared_holes += any(not self.pool.is_read(request, p) for p in range(request.num_computed))

    def step(self, drafts):
        """The target's step over some requests, then the draft model's if there are `drafts`."""
        num_reqs = int(self.generator.integers(1, len(self.requests) + 1))
        states = self.generator.permutation(list(self.requests))[:num_reqs]
        batch = [self.requests[state] for state in states]
        # Of new requests, and of parts of prompts, it is exact.
        may_lag = [state in self.seen and len(r.tokens) - r.num_computed == 1 for state, r in zip(states, batch)]
        self.seen |= set(states)
        lags = np.where(may_lag, self.generator.integers(0, MAX_LAG + 1, num_reqs), 0)
        begins = np.array([request.num_computed for request in batch])
        for request in batch:
            self.pool.grow(request, request.num_computed + MAX_LAG + 8)
        step = target_step(self.pool, batch, self.generator)
        for state, request in zip(states, batch):
            if new := request.blocks[self.noted[state] :]:
                self.tables.append_block_ids(int(state), ([], new), overwrite=False)
                self.noted[state] = len(request.blocks)
        counts = np.diff(step.metadata.query_start_loc.numpy())
        if not drafts:
            self.missed.skip(states, begins + lags, counts)
            return
        to_read = self.missed.take(states, begins + lags, counts, MAX_ROWS)
        unfinished = set() if to_read is None else set(to_read.unfinished.tolist())
        if to_read is not None:
            assert 0 < to_read.counts.sum() <= MAX_ROWS
            begin_of = dict(zip(states.tolist(), begins.tolist()))
            for state, position in zip(*to_read.rows()):
                self.read(self.requests[state], position, is_text=position < begin_of[state])
            self.tally.caught_up += len(to_read.states)
            self.tally.unfinished += len(unfinished)
        for state, request, begin, end in zip(states, batch, step.begins, step.ends):
            for position in range(begin, end + 1):
                self.read(request, position, is_text=state not in unfinished and position < len(request.tokens))

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
                self.admit([0] * length if is_common else self.generator.integers(0, 3, length).tolist())
            if not self.requests:
                continue
            drafts = drafts if self.generator.random() < 0.8 else not drafts
            self.step(drafts)
            for state, request in list(self.requests.items()):
                if len(request.tokens) > MAX_LENGTH - 16 or self.generator.random() < 0.06:
                    self.pool.release(self.requests.pop(state))
                    if len(request.tokens) <= MAX_LENGTH - 16 and self.generator.random() < 0.5:
                        self.admit(request.tokens)  # preempted, and resumed
                        self.tally.resumed += 1
        return self.tally


@pytest.mark.parametrize("seed", range(40))
def test_no_row_of_a_text_ever_attends_to_a_hole(seed):
    Simulation(seed).run()


def test_the_simulation_meets_what_it_is_for():
    tallies = [Simulation(seed).run() for seed in range(40)]
    for figure in ("caught_up", "unfinished", "shared_holes", "resumed"):
        assert sum(getattr(tally, figure) for tally in tallies) > 20, figure


def test_until_a_step_without_drafts_nothing_is_accounted():
    missed = MissedText((2, 8), 16, BLOCK, MAX_LAG)
    missed.note_blocks(0, [3, 4], is_new=True)
    states, counts = np.array([0]), np.array([5])
    assert missed.take(states, np.array([0]), counts, 100) is None
    missed.skip(states, np.array([5]), np.array([1]))
    to_read = missed.take(states, np.array([6]), np.array([1]), 100)
    assert to_read.begins.tolist() == [0]  # it may have been ahead of itself by MAX_LAG
    assert to_read.counts.tolist() == [6]
    assert missed.take(states, np.array([7]), np.array([1]), 100) is None


def test_what_was_read_is_not_read_again_by_another_request_that_finds_it():
    missed = MissedText((2, 8), 16, BLOCK, MAX_LAG)
    missed.note_blocks(0, [3, 4, 5, 6], is_new=True)
    first, count = np.array([0]), np.array([1])
    missed.skip(first, np.array([0]), np.array([7]))
    assert missed.take(first, np.array([7]), count, 100).counts.tolist() == [7]
    missed.take(first, np.array([8]), np.array([6]), 100)
    missed.note_blocks(1, [3, 4, 5, 7], is_new=True)
    assert missed.take(np.array([1]), np.array([12]), count, 100) is None
    # Blocks that were given to nobody since may hold what a text long gone has left: of the fourth the first token.
    missed.skip(first, np.array([14]), count)
    missed.note_blocks(1, [6], is_new=True)
    missed.take(np.array([1]), np.array([0]), np.array([4]), 100)
    missed.note_blocks(0, [6], is_new=True)
    assert missed.take(first, np.array([4]), count, 100) is None
