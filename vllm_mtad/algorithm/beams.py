"""`beam_step` drafts jointly, over (beam, token) pairs, and `choose_draft` takes one draft (paper, Algorithm 1).

A beam's weight is the product of its own q's, kept as a sum of logs. A dead slot has weight -inf: its
children have no mass, so they are never drawn, and the next step may refill the slot with a child of a live
beam. Ties go to the lower beam index, then to the lower token id.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vllm_mtad.algorithm.noise import log_exponential
from vllm_mtad.algorithm.warp import WarpedRows


@dataclass(frozen=True)
class Beams:
    """The beams of a batch after `depth` steps.

    `scores`: float32 `[num_reqs, width]`, the joint log q. `tokens`: int64 `[num_reqs, width, depth]`.
    `log_q`: float32 `[num_reqs, width, depth]`, each token's own log q. `parents`: int64 `[num_reqs, width]`,
    the slot of the step before that each beam continues.
    """

    scores: torch.Tensor
    tokens: torch.Tensor
    log_q: torch.Tensor
    parents: torch.Tensor

    @classmethod
    def root(cls, num_reqs: int, device: torch.device) -> Beams:
        """One beam of weight 1 and depth 0 per request."""
        one = torch.zeros(num_reqs, 1, device=device)
        empty = torch.zeros(num_reqs, 1, 0, device=device)
        return cls(one, empty.long(), empty, one.long())


@dataclass(frozen=True)
class DrawNoise:
    """Which requests sample, and their noise keys. None in `beam_step` means that none samples.

    `keys`: int64 `[num_reqs]` (`noise.draft_keys`). `deterministic`: bool `[num_reqs]`, the requests that
    take the largest weights instead, or None. `vocab_size`: makes (beam, token) one counter.
    """

    keys: torch.Tensor
    vocab_size: int
    deterministic: torch.Tensor | None = None


def beam_step(
    beams: Beams,
    draft: WarpedRows,
    beam_width: int,
    noise: DrawNoise | None,
    keeps_argmax: torch.Tensor | None = None,
) -> Beams:
    """Extend every beam by one token and keep `beam_width` of the (beam, token) pairs.

    With noise: a draw without replacement in proportion to the joint weight w(j, v) = b_j q(v | beam j)
    (Gumbel-top-k: exact, one pass, no host sync). Without: the largest w.

    Args:
        beams: `[num_reqs, width]` beams of the step before.
        draft: warped rows of the draft model, `[num_reqs * width, candidates]`, beam-major per request.
        keeps_argmax: bool `[num_reqs]`, the requests whose slot 0 always holds the draft model's argmax chain (lossless
            greedy trees), or None.
    """
    num_reqs, width = beams.scores.shape
    if noise is None:
        draft = draft.likeliest(beam_width)  # of each beam, no other can be among the largest
    candidates = draft.log_probs.shape[1]
    log_q = draft.log_probs.view(num_reqs, width, candidates)
    joint = (beams.scores[:, :, None] + log_q).flatten(1)
    if draft.token_ids is None:
        tokens = torch.arange(candidates, device=joint.device).repeat(width).expand(num_reqs, -1)
    else:
        tokens = draft.token_ids.view(num_reqs, width * candidates)

    sure = None
    if keeps_argmax is not None:
        sure = torch.where(keeps_argmax, _first_argmax(log_q[:, 0], tokens[:, :candidates]), -1)
    picked = _pick(joint, tokens, width, min(beam_width, joint.shape[1]), noise, sure)
    scores = joint.gather(1, picked)
    parents = (picked // candidates).masked_fill_(scores == -torch.inf, 0)
    own_log_q = log_q.flatten(1).gather(1, picked)
    grown = Beams(
        scores=scores,
        tokens=torch.cat([_of_parents(beams.tokens, parents), tokens.gather(1, picked)[:, :, None]], 2),
        log_q=torch.cat([_of_parents(beams.log_q, parents), own_log_q[:, :, None]], 2),
        parents=parents,
    )
    return grown if picked.shape[1] == beam_width else _with_dead_slots(grown, beam_width)


def chosen_slots(beams: Beams, keeps_argmax: torch.Tensor | None = None) -> torch.Tensor:
    """`[num_reqs]` int64: the live beam with the largest weight, or the argmax chain where it is kept."""
    best = beams.scores.argmax(1)
    return best if keeps_argmax is None else best.masked_fill(keeps_argmax, 0)


def choose_draft(beams: Beams) -> tuple[torch.Tensor, torch.Tensor]:
    """The live beam with the largest weight: (tokens, log q), each `[num_reqs, depth]`."""
    best = chosen_slots(beams)[:, None]
    return _of_parents(beams.tokens, best)[:, 0], _of_parents(beams.log_q, best)[:, 0]


def _of_parents(history: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
    """Rows `parents` `[num_reqs, n]` of `history` `[num_reqs, width, depth]`."""
    return history.gather(1, parents[:, :, None].expand(-1, -1, history.shape[2]))


def _pick(
    joint: torch.Tensor,
    tokens: torch.Tensor,
    width: int,
    count: int,
    noise: DrawNoise | None,
    sure: torch.Tensor | None = None,
) -> torch.Tensor:
    """`[num_reqs, count]` columns of `joint` `[num_reqs, width * candidates]`.

    `sure`: int64 `[num_reqs]`, a column that comes first whatever its weight, -1 for none.
    """
    keys, in_order = joint, noise is None
    if noise is not None:
        first = torch.arange(0, width * noise.vocab_size, noise.vocab_size, device=joint.device)
        counters = (tokens.unflatten(1, (width, -1)) + first[:, None]).flatten(1)
        keys = joint - log_exponential(noise.keys, counters)
        if noise.deterministic is not None:
            keys, in_order = torch.where(noise.deterministic[:, None], joint, keys), True
    if sure is not None:
        keys = torch.where(torch.arange(joint.shape[1], device=joint.device) == sure[:, None], torch.inf, keys)
    if in_order:
        return _largest_in_order(keys, tokens, width, count)
    # Sorted: a beam's slot is part of its noise, and must not depend on how many candidates a row holds.
    return keys.topk(count, dim=1).indices


def _first_argmax(log_q: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """`[num_reqs]` the column of the likeliest token, of equals the one with the lowest id; both `[num_reqs, n]`."""
    is_best = log_q == log_q.amax(1, keepdim=True)
    return torch.where(is_best, tokens, torch.iinfo(torch.int64).max).argmin(1)


def _largest_in_order(keys: torch.Tensor, tokens: torch.Tensor, width: int, count: int) -> torch.Tensor:
    """The `count` largest columns; of equal keys, the lower beam index first, then the lower token id.

    topk leaves the order of ties open, so the maxima are taken one by one: 3 launches for each.
    """
    beam = torch.arange(width, device=keys.device).repeat_interleave(keys.shape[1] // width)
    rank = tokens + beam * (1 << 32)
    keys, last = keys.clone(), torch.iinfo(torch.int64).max
    picked = torch.empty(keys.shape[0], count, dtype=torch.int64, device=keys.device)
    taken = torch.zeros_like(keys, dtype=torch.bool)
    for slot in range(count):
        best = keys.amax(1, keepdim=True)
        column = torch.where((keys == best) & ~taken, rank, last).argmin(1, keepdim=True)
        picked[:, slot] = column[:, 0]
        keys.scatter_(1, column, -torch.inf)
        taken.scatter_(1, column, True)
    return picked


def _with_dead_slots(beams: Beams, beam_width: int) -> Beams:
    """Fill up to `beam_width` slots, when there were fewer pairs than slots."""
    missing = beam_width - beams.scores.shape[1]
    pad = torch.nn.functional.pad
    return Beams(
        scores=pad(beams.scores, (0, missing), value=-torch.inf),
        tokens=pad(beams.tokens, (0, 0, 0, missing)),
        log_q=pad(beams.log_q, (0, 0, 0, missing), value=-torch.inf),
        parents=pad(beams.parents, (0, missing)),
    )
