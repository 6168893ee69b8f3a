"""`DraftHoles` knows which tokens of the KV cache the draft model has not read: those of steps without drafts.

Such a step costs what the target costs. When drafting comes back, the draft model reads what it missed before a request
is drafted for. The account is by block, as a request may find another's blocks in the prefix cache.
"""

from __future__ import annotations

import numpy as np

from vllm_mtad.runners.v1.first_pass import FirstPassPlan, TargetStep


class DraftHoles:
    """Arguments of the methods, of the requests of a batch: `block_table`, int `[num_reqs, columns]`, of blocks in the
    order of their text; `begins`, `ends`, int `[num_reqs]`, positions in it, the end excluded.

    Args:
        num_blocks: blocks of the KV cache.
        block_size: tokens of a block.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self._block_size = block_size
        # The offset of each block's first hole, block_size where there is none. Only offsets that the target has
        # written since the block was handed out are asked for, so what is older does not matter.
        self._first = np.full(num_blocks, block_size, dtype=np.int64)

    def open(self, block_table: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> None:
        """The target has written these tokens, and the draft model has not."""
        covered, columns = self._covered(block_table, begins, ends)
        offsets = np.maximum(begins[:, None] - columns, 0)
        np.minimum.at(self._first, block_table[covered], offsets[covered])

    def fill(self, block_table: np.ndarray, begins: np.ndarray, ends: np.ndarray, is_complete: np.ndarray) -> None:
        """The draft model has read these tokens, and there was no hole before them.

        Args:
            is_complete: bool `[num_reqs]`, whether that is all that is committed.
        """
        covered, columns = self._covered(block_table, begins, ends)
        read = np.minimum(ends[:, None] - columns, self._block_size)
        np.maximum.at(
            self._first, block_table[covered], np.where(is_complete[:, None], self._block_size, read)[covered]
        )

    def follow(self, step: TargetStep, plan: FirstPassPlan) -> None:
        """The draft model reads what is planned of what this step of the target has committed."""
        behind = ~plan.is_complete
        self.open(step.block_table[behind], step.begins[behind], step.ends[behind])
        self.fill(step.block_table, plan.begins, np.minimum(plan.ends, step.ends), plan.is_complete)

    def first(self, block_table: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """int64 `[num_reqs]`: the position of the first hole in texts of these lengths, or the length."""
        covered, columns = self._covered(block_table, np.zeros_like(lengths), lengths)
        first = self._first[block_table]
        return (
            np.where(covered & (first < self._block_size), columns + first, lengths[:, None])
            .min(1, initial=np.iinfo(np.int64).max)
            .clip(max=lengths)
        )

    def _covered(self, block_table: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(bool `[num_reqs, columns]`, blocks that hold some of these tokens; int `[columns]`, where blocks begin)."""
        columns = np.arange(block_table.shape[1]) * self._block_size
        return (columns + self._block_size > begins[:, None]) & (columns < ends[:, None]), columns
