"""`warp` is the one function that turns the target's logits into the distribution p, and the draft's into q.

It applies temperature, then min-p, then top-k, then top-p on the mass that remains: vLLM's order. A row that does not
sample (temperature below `GREEDY_TEMPERATURE`) becomes one-hot at its argmax; lossless greedy decoding then
needs no case of its own anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

GREEDY_TEMPERATURE = 1e-5
"""Rows below this temperature never sample (vLLM's `_SAMPLING_EPS`)."""
_FIRST_NUCLEUS_WIDTH = 64


@dataclass(frozen=True)
class WarpParameters:
    """How each row is warped; a field that is None applies to no row. Make it with `build`.

    `temperature` (1 where greedy), `top_p` (infinite where there is none), `min_p`: float32 `[rows]`. `top_k`: int64
    `[rows]`. `one_hot`: bool `[rows]`. The rest are facts about them, found once for all steps: `all_one_hot`;
    `truncates_all`, whether every row has a top-k or top-p; `max_top_k`, the largest top-k (0 if there is none);
    `top_k_bounds_all`, whether every row that is truncated has a top-k.
    """

    temperature: torch.Tensor
    top_k: torch.Tensor | None
    top_p: torch.Tensor | None
    min_p: torch.Tensor | None
    one_hot: torch.Tensor | None
    all_one_hot: bool
    truncates_all: bool
    max_top_k: int
    top_k_bounds_all: bool

    @classmethod
    def build(
        cls,
        temperature: torch.Tensor,
        vocab_size: int,
        top_k: torch.Tensor | None = None,
        top_p: torch.Tensor | None = None,
        min_p: torch.Tensor | None = None,
        *,
        greedy_as_joint: bool | torch.Tensor = False,
    ) -> WarpParameters:
        """From host tensors `[rows]`; a row without top-k has 0 or at least the vocabulary size.

        With `greedy_as_joint` (`greedy="joint"`; bool, or bool `[rows]`), rows that do not sample are taken at T = 1
        without truncation, instead of one-hot.
        """
        greedy = temperature < GREEDY_TEMPERATURE
        one_hot = greedy & ~torch.as_tensor(greedy_as_joint)
        top_k = torch.full_like(greedy, vocab_size, dtype=torch.int64) if top_k is None else top_k.long()
        top_k = torch.where((top_k <= 0) | (top_k >= vocab_size) | greedy, vocab_size, top_k)
        top_p = torch.ones_like(temperature) if top_p is None else top_p.masked_fill(greedy, 1.0)
        min_p = torch.zeros_like(temperature) if min_p is None else min_p.masked_fill(greedy, 0.0)
        top_k = top_k.masked_fill(one_hot, 1)
        has_top_k, has_top_p = top_k < vocab_size, top_p < 1
        return cls(
            temperature=temperature.masked_fill(greedy, 1.0),
            top_k=top_k if has_top_k.any() else None,
            top_p=top_p.masked_fill(~has_top_p, torch.inf) if has_top_p.any() else None,
            min_p=min_p if (min_p > 0).any() else None,
            one_hot=one_hot if one_hot.any() else None,
            all_one_hot=bool(one_hot.all()),
            truncates_all=bool((has_top_k | has_top_p).all()),
            max_top_k=int(top_k[has_top_k].max()) if has_top_k.any() else 0,
            top_k_bounds_all=not (has_top_p & ~has_top_k).any(),
        )

    def rows(self, index: torch.Tensor | slice) -> WarpParameters:
        """The parameters of the rows that `index` names, in its order. The host's facts stay true of them."""
        tensors: dict[str, Any] = {
            name: value[index] for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **tensors)


@dataclass(frozen=True)
class WarpedRows:
    """One distribution per row, on the candidates that can have mass.

    `log_probs`: float32 `[rows, width]`, normalised, -inf where a candidate has no mass. `token_ids`: int64
    `[rows, width]`, or None when column v is token v.
    """

    log_probs: torch.Tensor
    token_ids: torch.Tensor | None = None

    def rows(self, index: torch.Tensor | slice) -> WarpedRows:
        return WarpedRows(self.log_probs[index], None if self.token_ids is None else self.token_ids[index])

    def log_prob_of(self, tokens: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """`[n]` log-probability of a token in each of `rows` (each row, in order); -inf for an id below 0 or without
        mass.
        """
        if rows is None:
            rows = torch.arange(len(tokens), device=tokens.device)
        if self.token_ids is None:
            return self.log_probs[rows, tokens.clamp(min=0)].masked_fill(tokens < 0, -torch.inf)
        found = self.token_ids[rows] == tokens[:, None]
        return self.log_probs[rows].masked_fill(~found, -torch.inf).amax(1)

    def likeliest(self, count: int) -> WarpedRows:
        """The `count` likeliest candidates of each row, and all that are as likely as the last of them."""
        if count >= self.log_probs.shape[1]:
            return self
        least = self.log_probs.topk(count, dim=1).values[:, -1:]
        width = max(count, int((self.log_probs >= least).sum(1).amax()))  # of NaN none is
        log_probs, columns = self.log_probs.topk(width, dim=1)
        return WarpedRows(log_probs, columns if self.token_ids is None else self.token_ids.gather(1, columns))

    def token_at(self, columns: torch.Tensor) -> torch.Tensor:
        """`[rows]` token ids of one column per row."""
        if self.token_ids is None:
            return columns
        return self.token_ids.gather(1, columns[:, None])[:, 0]


def warp(logits: torch.Tensor, parameters: WarpParameters) -> WarpedRows:
    """Warp `[rows, vocab]` logits; float32 `logits` are overwritten.

    Only as much of the vocabulary is touched as the parameters ask for: where every row is truncated, the
    result holds just the widest row's candidates. The vocabulary may be smaller than the one that the parameters were
    built for: a draft model's, with less padding.
    """
    logits = logits.float()
    if parameters.all_one_hot:
        only = logits.argmax(1, keepdim=True)
        return WarpedRows(torch.zeros_like(only, dtype=torch.float32), only)
    one_hot = parameters.one_hot
    best = None if one_hot is None else logits.argmax(1)
    scaled = logits.div_(parameters.temperature[:, None])
    if parameters.min_p is not None:
        floor = scaled.amax(1) + parameters.min_p.log()
        scaled.masked_fill_(scaled < floor[:, None], -torch.inf)
    if parameters.top_k is None and parameters.top_p is None:
        warped = WarpedRows(scaled.log_softmax(1))
    else:
        warped = _truncate(scaled, parameters)
    return warped if one_hot is None or best is None else _one_hot(warped, best, one_hot)


def _truncate(scaled: torch.Tensor, parameters: WarpParameters) -> WarpedRows:
    """top-k, then top-p, on `[rows, vocab]` scaled logits."""
    values, ids = _sorted_head(scaled, parameters)
    if parameters.top_k is not None:
        columns = torch.arange(values.shape[1], device=values.device)
        values = values.masked_fill(columns >= parameters.top_k[:, None], -torch.inf)
    if parameters.top_p is not None:
        # The smallest head whose share of the remaining mass reaches top_p: a column stays while the mass before
        # it is below. A row without top_p keeps all: rounding must not let its mass reach 1 early.
        probs = (values - _log_mass(scaled, values, parameters)[:, None]).exp()
        cut = probs.cumsum(1) - probs >= parameters.top_p[:, None]  # before the first column there is no mass
        values = values.masked_fill(cut, -torch.inf)
    if parameters.truncates_all:
        return WarpedRows(values.log_softmax(1), ids)
    dense = torch.full_like(scaled, -torch.inf).scatter_(1, ids, values)
    truncated = _is_truncated(parameters, scaled.shape[1])[:, None]
    return WarpedRows(torch.where(truncated, dense, scaled).log_softmax(1))


def _log_mass(scaled: torch.Tensor, values: torch.Tensor, parameters: WarpParameters) -> torch.Tensor:
    """`[rows]` logarithm of the mass that top-p is a share of: after top-k where a row has one, else of the row."""
    if parameters.top_k is None:
        return scaled.logsumexp(1)
    after_top_k = values.logsumexp(1)
    if parameters.top_k_bounds_all:
        return after_top_k
    return torch.where(parameters.top_k < scaled.shape[1], after_top_k, scaled.logsumexp(1))


def _is_truncated(parameters: WarpParameters, vocab_size: int) -> torch.Tensor:
    """bool `[rows]`: whether a row has a top-k or a top-p."""
    truncated = torch.zeros_like(parameters.temperature, dtype=torch.bool)
    if parameters.top_k is not None:
        truncated |= parameters.top_k < vocab_size
    if parameters.top_p is not None:
        truncated |= parameters.top_p < 1
    return truncated


def _sorted_head(scaled: torch.Tensor, parameters: WarpParameters) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, ids) `[rows, width]`, descending, wide enough for every row that is truncated."""
    vocab_size = scaled.shape[1]
    if parameters.top_k_bounds_all:
        return torch.topk(scaled, min(parameters.max_top_k, vocab_size), dim=1)
    assert parameters.top_p is not None
    log_total = scaled.logsumexp(1, keepdim=True)
    needed = parameters.top_p.masked_fill(parameters.top_p >= 1, 0.0)
    width = max(_FIRST_NUCLEUS_WIDTH, parameters.max_top_k)
    while width < vocab_size:
        values, ids = torch.topk(scaled, width, dim=1)
        if bool(((values - log_total).exp_().sum(1) >= needed).all()):
            return values, ids
        width *= 8
    return scaled.sort(dim=1, descending=True)


def _one_hot(warped: WarpedRows, best: torch.Tensor, rows: torch.Tensor) -> WarpedRows:
    """Rows where `rows` hold all their mass on token `best`: the first of equal logits."""
    log_probs, ids = warped.log_probs, warped.token_ids
    column = best[:, None] if ids is None else torch.zeros_like(best)[:, None]
    one_hot = torch.full_like(log_probs, -torch.inf).scatter_(1, column, 0.0)
    if ids is not None:
        ids = torch.where(rows[:, None], ids.scatter(1, column, best[:, None]), ids)
    return WarpedRows(torch.where(rows[:, None], one_hot, log_probs), ids)
