"""In a drafting round's first pass the draft model reads what was committed since it last read, and the newest token.

Rejected tokens are left out. What was committed before this step is read too where the draft model has missed steps
(`DraftHoles`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.spec_decode.utils import compute_new_slot_mapping

from vllm_mtad.runners.draft_holes import DraftHoles


@dataclass(frozen=True)
class TargetStep:
    """What a step of the target has committed.

    By request, `[num_reqs]`: `begins`, `ends`, int64, the positions from the first token that the target read to the
    last that is kept, excluded: there, `newest`, the token that the target has added. `block_table`: int
    `[num_reqs, columns]`, of all that is committed. `token_ids`: `[rows]`, what the target read. `metadata`: vLLM's of
    the step.
    """

    begins: np.ndarray
    ends: np.ndarray
    newest: torch.Tensor
    block_table: np.ndarray
    token_ids: torch.Tensor
    metadata: CommonAttentionMetadata

    @classmethod
    def of(
        cls,
        metadata: CommonAttentionMetadata,
        token_ids: torch.Tensor,
        begins: np.ndarray,
        newest: torch.Tensor,
        rejected: torch.Tensor | None,
        block_size: int,
    ) -> TargetStep:
        """
        Args:
            begins: int `[num_reqs]`, the positions of the first tokens that the target read.
            rejected: `[num_reqs]`, how many of each request's rows are not kept; None for none.
        """
        starts = metadata.query_start_loc_cpu.numpy()
        begins = begins.astype(np.int64)
        ends = begins + np.diff(starts) - (0 if rejected is None else rejected.numpy())
        columns = -(-int(ends.max()) // block_size)
        return cls(begins, ends, newest, metadata.block_table_tensor[:, :columns].numpy(), token_ids, metadata)

    @property
    def kept_rows(self) -> list[range]:
        """Each request's rows that are kept, where the step had no trees."""
        starts = self.metadata.query_start_loc_cpu.tolist()
        return [range(start, start + kept) for start, kept in zip(starts, (self.ends - self.begins).tolist())]


@dataclass(frozen=True)
class FirstPassPlan:
    """Which positions of each request the draft model reads.

    `begins`, `counts`: int64 `[num_reqs]`, the first of them, and how many. `is_complete`: bool `[num_reqs]`, whether
    the newest token is among them; without it nothing can be drafted.
    """

    begins: np.ndarray
    counts: np.ndarray
    is_complete: np.ndarray

    @classmethod
    def of(cls, step: TargetStep, begins: np.ndarray, wants_drafts: np.ndarray, max_rows: int) -> FirstPassPlan:
        """Share `max_rows` rows out.

        A request that has missed nothing reads this step's tokens. Another reads what it has missed, and then them, if
        it wants drafts and there are rows for it. If not, it reads what it missed for as many rows as it would have
        had, and the spare ones: the gap shrinks, as a step without a draft adds one token.

        Args:
            begins: int64 `[num_reqs]`, the first position that the draft model has not read.
            wants_drafts: bool `[num_reqs]`.
        """
        missed, counts = step.begins - begins, step.ends - step.begins + 1
        is_complete, spare = missed == 0, max_rows - int(counts.sum())
        for request in np.flatnonzero(missed):
            own, extra = int(counts[request]), spare if wants_drafts[request] else 0
            is_complete[request] = missed[request] <= extra
            counts[request] = min(missed[request] + (own if is_complete[request] else 0), own + extra)
            spare -= max(0, int(counts[request]) - own)
        return cls(begins, counts, is_complete)

    def note(self, step: TargetStep, holes: DraftHoles) -> None:
        """In the account: the draft model reads what is planned of what this step of the target has committed."""
        behind = ~self.is_complete
        holes.open(step.block_table[behind], step.begins[behind], step.ends[behind])
        holes.fill(step.block_table, self.begins, np.minimum(self.ends, step.ends), self.is_complete)

    @property
    def ends(self) -> np.ndarray:
        return self.begins + self.counts

    @property
    def last_rows(self) -> np.ndarray:
        """int64 `[num_reqs]`, each request's last row of the pass."""
        return self.counts.cumsum() - 1

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """(request, position) of each row, int64 `[rows]`."""
        requests = np.arange(len(self.counts)).repeat(self.counts)
        return requests, np.arange(len(requests)) + (self.ends - 1 - self.last_rows)[requests]

    def tokens(self, step: TargetStep, kept_rows: list, texts: np.ndarray) -> torch.Tensor:
        """`[rows]` token ids.

        Args:
            kept_rows: of each request, the rows of the step whose tokens are kept, int sequences.
            texts: int `[num_reqs, max_model_len]`, each request's tokens up to where the step began.
        """
        requests, positions = self.positions()
        tokens = torch.from_numpy(texts[requests, positions.clip(max=texts.shape[1] - 1)]).long()
        kept = [row for request in np.flatnonzero(self.is_complete) for row in kept_rows[request]]
        is_kept = (positions >= step.begins[requests]) & (positions < step.ends[requests])
        tokens[torch.from_numpy(is_kept)] = step.token_ids[kept].long()
        is_complete = torch.from_numpy(self.is_complete)
        tokens[torch.from_numpy(self.last_rows)[is_complete]] = step.newest[is_complete].long()
        return tokens

    def metadata(self, step: TargetStep, block_size: int, max_model_len: int) -> CommonAttentionMetadata:
        """The attention metadata of the pass."""
        positions = torch.from_numpy(self.positions()[1])
        starts = torch.from_numpy(np.append(0, self.counts.cumsum())).int()
        seq_lens = torch.from_numpy(self.ends).int()
        metadata = step.metadata.replace(
            query_start_loc=starts,
            query_start_loc_cpu=starts,
            seq_lens=seq_lens,
            seq_lens_cpu_upper_bound=None,
            num_actual_tokens=len(positions),
            max_query_len=int(self.counts.max()),
            max_seq_len=int(seq_lens.max()),
            _num_computed_tokens_cache=None,
            _token_to_req_indices_cache=None,
        )
        metadata.slot_mapping = compute_new_slot_mapping(
            cad=metadata,
            new_positions=positions,
            is_rejected_token_mask=torch.zeros(len(positions), dtype=torch.bool),
            block_size=block_size,
            num_new_tokens=0,
            max_model_len=max_model_len,
        )
        return metadata
