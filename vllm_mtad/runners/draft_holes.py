"""`DraftHoles` knows which tokens of the KV cache the draft model has not read: those of steps without drafts.

Such a step costs what the target costs. When drafting comes back, the draft model reads what it missed before a request
is drafted for. The account is by block, as a request may find another's blocks in the prefix cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class DraftHoles:
    """Arguments of the methods, of the requests of a batch: `block_table`, int `[num_reqs, columns]` (or what can be
    indexed like it), of blocks in the order of their text; `begins`, `ends`, int `[num_reqs]`, positions in it, the end
    excluded.

    Args:
        num_blocks: blocks of the KV cache.
        block_size: tokens of a block.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self._block_size = block_size
        # The offset of each block's first hole, block_size where there is none. Only offsets that the target has
        # written since the block was handed out are asked for, so what is older does not matter.
        self._first = np.full(num_blocks, block_size, dtype=np.int64)

    def open(self, block_table: Any, begins: np.ndarray, ends: np.ndarray) -> None:
        """The target has written these tokens, and the draft model has not."""
        requests, blocks, starts = self._covered(block_table, begins, ends)
        np.minimum.at(self._first, blocks, np.maximum(begins[requests] - starts, 0))

    def fill(self, block_table: Any, begins: np.ndarray, ends: np.ndarray, is_complete: np.ndarray) -> None:
        """The draft model has read these tokens, and there was no hole before them.

        Args:
            is_complete: bool `[num_reqs]`, whether that is all that is committed.
        """
        requests, blocks, starts = self._covered(block_table, begins, ends)
        read = np.minimum(ends[requests] - starts, self._block_size)
        np.maximum.at(self._first, blocks, np.where(is_complete[requests], self._block_size, read))

    def first(self, block_table: Any, lengths: np.ndarray) -> np.ndarray:
        """int64 `[num_reqs]`: the position of the first hole in texts of these lengths, or the length."""
        requests, blocks, starts = self._covered(block_table, np.zeros_like(lengths), lengths)
        is_hole = self._first[blocks] < self._block_size
        first = lengths.astype(np.int64)
        np.minimum.at(first, requests[is_hole], (starts + self._first[blocks])[is_hole])
        return first

    def _covered(
        self, block_table: Any, begins: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each block that holds some of these tokens: (request, block, position where it starts), int64 each."""
        columns = begins // self._block_size
        counts = np.maximum(-(-ends // self._block_size) - columns, 0)
        requests = np.arange(len(counts)).repeat(counts)
        within = np.arange(len(requests)) - (counts.cumsum() - counts)[requests]
        columns = columns[requests] + within
        return requests, block_table[requests, columns], columns * self._block_size
