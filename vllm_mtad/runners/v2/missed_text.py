"""`MissedText` is the host's account of what the draft model has not read of each request's text.

It needs nothing from the device. The host knows a text's length up to drafts of steps that are still in flight, so the
account takes a few tokens for missed that were read; they are read twice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vllm_mtad.runners.draft_holes import DraftHoles

_NOTHING = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Tokens:
    """Tokens of some requests, int64 `[n]` each: `states`, the request's state; `begins`, `counts`, the position of the
    first, and how many.
    """

    states: np.ndarray
    begins: np.ndarray
    counts: np.ndarray

    @property
    def ends(self) -> np.ndarray:
        return self.begins + self.counts


@dataclass(frozen=True)
class Span(_Tokens):
    """What the target reads in a step, of each request of the batch.

    `is_exact`: bool, whether it begins there, and not up to a few tokens before. `wants_drafts`: bool.
    """

    is_exact: np.ndarray
    wants_drafts: np.ndarray

    def least_begins(self, max_lag: int) -> np.ndarray:
        """int64 `[n]`: where it may begin in truth."""
        return np.where(self.is_exact, self.begins, np.maximum(self.begins - max_lag, 0))


@dataclass(frozen=True)
class MissedTokens(_Tokens):
    """What is to be read before a batch is drafted for, of each request that has missed something.

    `unfinished`: int64, the states of the requests that still lack some then, and must not be drafted for.
    """

    unfinished: np.ndarray

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """(state, position) of each token, int64 `[rows]`."""
        first_rows = self.counts.cumsum() - self.counts
        positions = np.arange(self.counts.sum()) + (self.begins - first_rows).repeat(self.counts)
        return self.states.repeat(self.counts), positions


@dataclass(frozen=True)
class _RowsOf:
    """Some rows of a block table, by batch row; nothing is copied but what is asked for."""

    table: np.ndarray
    states: np.ndarray

    def __getitem__(self, index: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        requests, columns = index
        return self.table[self.states[requests], columns]


class MissedText:
    """
    Args:
        table_shape: `(max_num_reqs, columns)` of a block table.
        groups: the KV groups that hold the draft's layers. Each group has blocks of its own, and finds a text's in the
            prefix cache by itself: in one group those that one request has left, in another those of another request.
        num_blocks, page_size: of the KV cache.
        max_lag: by how many tokens the host may take a text for longer than it is.
    """

    def __init__(
        self, table_shape: tuple[int, int], groups: Sequence[int], num_blocks: int, page_size: int, max_lag: int
    ) -> None:
        self._tables = {group: np.zeros(table_shape, dtype=np.int32) for group in groups}
        self._num_blocks = {group: np.zeros(table_shape[0], dtype=np.int64) for group in groups}
        self._is_new = np.zeros(table_shape[0], dtype=bool)
        # By request state, the position of the first token that was not read.
        self._first = np.full(table_shape[0], _NOTHING)
        self._max_lag = max_lag
        self._make_holes = functools.partial(DraftHoles, num_blocks, page_size)
        self._holes: DraftHoles | None = None
        """From the first step without drafts on."""

    def follow(self, block_tables: Any) -> None:
        """From now on, note the blocks that vLLM gives a request: its tables are on the device only."""
        block_tables.append_block_ids = functools.partial(self._append, block_tables.append_block_ids)

    def _append(
        self, append: Callable[..., None], req_index: int, new_block_ids: tuple[list[int], ...], overwrite: bool
    ) -> None:
        append(req_index, new_block_ids, overwrite=overwrite)
        self.note_blocks(req_index, new_block_ids, is_new=overwrite)

    def note_blocks(self, state: int, blocks: Sequence[list[int]], *, is_new: bool) -> None:
        """A request has these blocks, by KV group; with `is_new` it is another request, and has no others."""
        for group, table in self._tables.items():
            counts = self._num_blocks[group]
            start = 0 if is_new else counts[state]
            counts[state] = end = start + len(blocks[group])
            table[state, start:end] = blocks[group]
        self._is_new[state] |= is_new

    def skip(self, span: Span) -> None:
        """The target reads this, and the draft model does not."""
        if self._holes is None:
            self._holes = self._make_holes()
        first = self._open(self._holes, span, np.ones(len(span.states), dtype=bool))
        self._look_up(self._holes, span, self._pop_new(span))  # what others of this step are about to write, too
        self._first[span.states] = np.minimum(self._first[span.states], first)

    def take(self, span: Span, max_rows: int) -> MissedTokens | None:
        """What a batch is to read of what it has missed, and then of this step; None if nothing is missing.

        Args:
            max_rows: of a pass over what was missed. Requests that want no drafts have none of them.
        """
        new, holes = self._pop_new(span), self._holes
        if holes is None:
            return None
        self._look_up(holes, span, new)
        first = np.minimum(self._first[span.states], span.begins)
        missed = span.begins - first
        wanted = np.where(span.wants_drafts, missed, 0)
        read = np.minimum(wanted, np.maximum(max_rows - (wanted.cumsum() - wanted), 0))
        is_complete = read == missed
        known = self._open(holes, span, ~is_complete)
        reached = np.minimum(first + read, np.maximum(known, first))  # further on, text may have been unknown
        for table in self._rows_of(span.states):
            holes.fill(table, first, np.where(is_complete, span.ends, reached), is_complete)
        self._first[span.states] = np.where(is_complete, _NOTHING, reached)
        if is_complete.all() and not read.any():
            return None
        reads = read > 0
        return MissedTokens(span.states[reads], first[reads], read[reads], span.states[~is_complete])

    def _open(self, holes: DraftHoles, span: Span, which: np.ndarray) -> np.ndarray:
        """Holes where the target reads of `which` requests, bool `[num_reqs]`; returns where each begins at least."""
        first = span.least_begins(self._max_lag)
        for table in self._rows_of(span.states[which]):
            holes.open(table, first[which], span.ends[which])
        return first

    def _rows_of(self, states: np.ndarray) -> list[_RowsOf]:
        """The rows of these requests in each group's block table."""
        return [_RowsOf(table, states) for table in self._tables.values()]

    def _pop_new(self, span: Span) -> np.ndarray:
        """bool `[num_reqs]`: the requests that are in a step for the first time."""
        new = self._is_new[span.states]
        self._is_new[span.states] = False
        self._first[span.states[new]] = _NOTHING
        return new

    def _look_up(self, holes: DraftHoles, span: Span, new: np.ndarray) -> None:
        """Requests of `new`, bool `[num_reqs]`, may have found blocks with holes in the prefix cache."""
        states, lengths = span.states[new], span.begins[new]
        first = np.minimum.reduce([holes.first(table, lengths) for table in self._rows_of(states)])
        self._first[states] = np.where(first < lengths, first, _NOTHING)
