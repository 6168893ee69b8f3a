"""`MissedText` is the host's account of what the draft model has not read of each request's text.

It needs nothing from the device. The host knows a text's length up to drafts of steps that are still in flight, so the
account takes a few tokens for missed that were read; they are read twice.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from vllm_mtad.runners.draft_holes import DraftHoles

_NOTHING = np.iinfo(np.int64).max


@dataclass(frozen=True)
class MissedTokens:
    """What is to be read before a batch is drafted for.

    By request that has missed something, `[n]`: `states` int64, its state; `begins`, `counts` int64, the positions.
    `unfinished`: int64, the states of those that still lack some then, and must not be drafted for.
    """

    states: np.ndarray
    begins: np.ndarray
    counts: np.ndarray
    unfinished: np.ndarray

    @property
    def ends(self) -> np.ndarray:
        return self.begins + self.counts

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """(state, position) of each token, int64 `[rows]`."""
        first_rows = self.counts.cumsum() - self.counts
        positions = np.arange(self.counts.sum()) + (self.begins - first_rows).repeat(self.counts)
        return self.states.repeat(self.counts), positions


class MissedText:
    """
    Args:
        table_shape: `(max_num_reqs, columns)` of the block table.
        num_blocks, page_size: of the KV cache.
        max_lag: by how many tokens the host may take a text for longer than it is.
    """

    def __init__(self, table_shape: tuple[int, int], num_blocks: int, page_size: int, max_lag: int) -> None:
        self._block_table = np.zeros(table_shape, dtype=np.int32)
        self._num_blocks = np.zeros(table_shape[0], dtype=np.int64)
        self._is_new = np.zeros(table_shape[0], dtype=bool)
        # By request state, the position of the first token that was not read.
        self._first = np.full(table_shape[0], _NOTHING)
        self._max_lag, self._page_size = max_lag, page_size
        self._make_holes = functools.partial(DraftHoles, num_blocks, page_size)
        self._holes: DraftHoles | None = None
        """From the first step without drafts on."""

    def follow(self, block_tables: Any, group: int) -> None:
        """From now on, note the blocks that vLLM gives a request: its tables are on the device only."""
        append = block_tables.append_block_ids

        @functools.wraps(append)
        def append_and_note(req_index: int, new_block_ids: tuple[list[int], ...], overwrite: bool) -> None:
            append(req_index, new_block_ids, overwrite=overwrite)
            self.note_blocks(req_index, new_block_ids[group], is_new=overwrite)

        block_tables.append_block_ids = append_and_note

    def note_blocks(self, state: int, blocks: list[int], *, is_new: bool) -> None:
        """A request has these blocks; with `is_new` it is another request, and has no others."""
        start = 0 if is_new else self._num_blocks[state]
        self._num_blocks[state] = end = start + len(blocks)
        self._block_table[state, start:end] = blocks
        self._is_new[state] |= is_new

    def skip(self, states: np.ndarray, begins: np.ndarray, counts: np.ndarray) -> None:
        """The target has read so many tokens of these requests, and the draft model has not.

        Args:
            begins: int `[num_reqs]`, at least the position of the first of them.
        """
        self._meet(states, begins)
        if self._holes is None:
            self._holes = self._make_holes()
        first = self._at_least_from(begins)
        ends = begins + counts
        self._holes.open(self._table(states, ends), first, ends)
        self._first[states] = np.minimum(self._first[states], first)

    def take(self, states: np.ndarray, begins: np.ndarray, counts: np.ndarray, max_rows: int) -> MissedTokens | None:
        """What a batch is to read of what it has missed, and then of this step; None if it has missed nothing.

        Args:
            begins, counts: as `skip`'s.
            max_rows: of a pass over what was missed.
        """
        self._meet(states, begins)
        if self._holes is None:
            return None
        ends, first = begins + counts, np.minimum(self._first[states], begins)
        table = self._table(states, ends)
        missed = begins - first
        room = np.maximum(max_rows - (missed.cumsum() - missed), 0)
        read = np.minimum(missed, room)
        is_complete = read == missed
        behind, known = ~is_complete, self._at_least_from(begins)
        self._holes.open(table[behind], known[behind], ends[behind])
        reached = np.minimum(first + read, np.maximum(known, first))  # further on, text may have been unknown
        self._holes.fill(table, first, np.where(is_complete, ends, reached), is_complete)
        self._first[states] = np.where(is_complete, _NOTHING, reached)
        if not missed.any():
            return None
        reads = read > 0
        return MissedTokens(states[reads], first[reads], read[reads], states[behind])

    def _meet(self, states: np.ndarray, begins: np.ndarray) -> None:
        """New requests may have found blocks with holes in the prefix cache. Of these `begins` is exact."""
        new = states[self._is_new[states]]
        if not len(new):
            return
        lengths = begins[self._is_new[states]].astype(np.int64)
        self._is_new[new] = False
        if self._holes is not None:
            first = self._holes.first(self._table(new, lengths), lengths)
            self._first[new] = np.where(first < lengths, first, _NOTHING)

    def _table(self, states: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """int32 `[num_reqs, columns]`: the blocks of texts of these lengths."""
        return self._block_table[states, : -(-int(lengths.max()) // self._page_size)]

    def _at_least_from(self, begins: np.ndarray) -> np.ndarray:
        """int64 `[num_reqs]`: where these may begin in truth."""
        return np.maximum(begins.astype(np.int64) - self._max_lag, 0)
