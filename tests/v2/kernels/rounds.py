"""Drafting rounds in the kernels' terms, and the same rounds by `algorithm.beams`."""

import math
from dataclasses import dataclass

import torch

from vllm_mtad.algorithm.beams import Beams, DrawNoise, beam_step, chosen_slots
from vllm_mtad.algorithm.noise import draft_keys, root_keys
from vllm_mtad.algorithm.warp import WarpParameters, warp
from vllm_mtad.runners.v2.kernels.beam_candidates import Candidates, TopLogits, beam_candidates
from vllm_mtad.runners.v2.kernels.beam_selection import BeamLevels, select_beams
from vllm_mtad.runners.v2.kernels.draft_choice import choose_drafts
from vllm_mtad.runners.v2.kernels.truncation import truncate
from vllm_mtad.runners.v2.trees import DraftTrees

NO_LIMIT = 1 << 30


@dataclass
class Limits:
    """Top-k, top-p and min-p by request state."""

    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor

    def cut(self, row: torch.Tensor, state: int) -> torch.Tensor:
        """`row` `[vocab]` of scaled logits, -inf where cut. Of equal logits the lower token ids come first."""
        top_k, top_p, min_p = (float(values[state]) for values in (self.top_k, self.top_p, self.min_p))
        order = sorted(range(len(row)), key=lambda token: (-float(row[token]), token))
        kept = [t for t in order[: int(top_k)] if min_p == 0 or row[t] >= row.max() + math.log(min_p)]
        weights = [math.exp(float(row[t] - row.max())) for t in kept]
        if top_p < 1:
            kept = [t for i, t in enumerate(kept) if sum(weights[:i]) < top_p * sum(weights)]
        return torch.full_like(row, -torch.inf).index_copy_(0, (at := torch.tensor(kept, device=row.device)), row[at])


@dataclass
class BeamsOnDevice:
    """`scores` `[num_reqs, beam_width]`; `tokens` and `ancestry` `[num_reqs, beam_width, depth]`, after a step."""

    scores: torch.Tensor
    tokens: torch.Tensor
    ancestry: torch.Tensor

    @classmethod
    def of(cls, levels: BeamLevels, depth: int) -> "BeamsOnDevice":
        ancestry = levels.ancestry_at(depth)[:, :, :depth].clone()
        tokens = levels.tokens[:, :depth].transpose(1, 2).gather(1, ancestry.long())
        return cls(levels.scores[:, depth - 1].clone(), tokens, ancestry)


@dataclass
class Round:
    """A batch in the kernels' terms: request i has state `states[i]`; -1 is padding.

    `lossless`: how requests at temperature 0 are decoded, for all or by state.
    """

    states: torch.Tensor
    roots: torch.Tensor
    temperature: torch.Tensor
    seeds: torch.Tensor
    beam_width: int
    gamma: int
    vocab_size: int
    draw: bool = True
    lossless: bool | torch.Tensor = True
    block: int | None = None
    is_warped: bool = False
    limits: Limits | None = None
    num_candidates: int = 1

    @property
    def is_lossless(self) -> torch.Tensor:
        """bool `[slots]`"""
        return (self.temperature == 0) & self.lossless

    def run(self, logits: list[torch.Tensor], window: int = NO_LIMIT, num_candidates: int | None = None):
        """(draft tokens `[num_reqs, nodes]`, trees, beams after each step) of `logits`, one tensor a step."""
        device, num_reqs, slots = self.states.device, len(self.states), len(self.temperature)
        out = Candidates.allocate(num_reqs * self.beam_width, self.vocab_size, self.beam_width, device, self.block)
        top_logits, limits = TopLogits.allocate(num_reqs * self.beam_width, out), self.limits
        ids = torch.full((num_reqs * self.beam_width,), 7, dtype=torch.int32, device=device)
        levels, steps = BeamLevels.allocate(num_reqs, self.beam_width, self.gamma, device), []
        for depth, rows in enumerate(logits):
            width = 1 if depth == 0 else self.beam_width
            beam_candidates(
                rows,
                self.states,
                self.roots,
                self.temperature,
                self.seeds,
                out,
                depth=depth,
                width=width,
                is_warped=self.is_warped,
                draw=self.draw,
                top_k=limits and limits.top_k,
                top_logits=limits and top_logits,
            )
            if limits is not None:
                truncate(
                    top_logits,
                    self.states,
                    self.roots,
                    self.temperature,
                    self.seeds,
                    limits.top_k,
                    limits.top_p,
                    limits.min_p,
                    out.rows(slice(len(rows))),
                    vocab_size=self.vocab_size,
                    depth=depth,
                    width=width,
                    draw=self.draw,
                )
            select_beams(
                out,
                self.states,
                self.is_lossless.int(),
                levels,
                ids,
                depth=depth,
                width=width,
                is_tree=self.num_candidates > 1,
            )
            steps.append(BeamsOnDevice.of(levels, depth + 1))
            assert torch.equal(ids.view(num_reqs, -1), steps[-1].tokens[:, :, depth])
        trees = DraftTrees.allocate(slots, self.gamma, self.num_candidates, device)
        trees.log_q.fill_(99.0)
        drafts = torch.full((num_reqs, trees.log_q.shape[1]), -5, device=device)
        choose_drafts(
            levels,
            self.states,
            self.roots,
            self.is_lossless.int(),
            drafts,
            trees,
            num_drafts=len(logits),
            num_candidates=num_candidates or self.num_candidates,
            window=window,
        )
        return drafts, trees, steps

    def expected(self, logits: list[torch.Tensor]):
        """(the chosen draft's slot, beams after each step) by `algorithm.beams`, of all requests but padding."""
        real = self.states >= 0
        states = self.states[real]
        temperature, seeds = self.temperature[states], self.seeds[states]
        is_lossless = self.is_lossless[states]
        keeps_argmax = is_lossless if self.num_candidates > 1 else None
        joint = torch.ones_like(is_lossless) if self.num_candidates > 1 else ~is_lossless
        deterministic = torch.ones_like(real[real]) if not self.draw else (temperature == 0) & joint
        beams, steps = Beams.root(len(states), states.device), []
        for depth, rows in enumerate(logits):
            width = 1 if depth == 0 else self.beam_width
            rows = rows.float().view(len(self.states), width, -1)[real].flatten(0, 1).clone()
            by_row = temperature.repeat_interleave(width)
            if self.limits is not None:
                rows = rows / torch.where(by_row > 0, by_row, 1.0)[:, None]
                by_state = states.repeat_interleave(width).tolist()
                rows = torch.stack([self.limits.cut(row, state) for row, state in zip(rows, by_state)])
            if self.is_warped or self.limits is not None:
                by_row = torch.where(by_row > 0, 1.0, by_row)
            joint_rows = joint.repeat_interleave(width)
            draft = warp(rows, WarpParameters.build(by_row, self.vocab_size, greedy_as_joint=joint_rows))
            keys = draft_keys(root_keys(seeds, self.roots[real]), depth)
            beams = beam_step(
                beams, draft, self.beam_width, DrawNoise(keys, self.vocab_size, deterministic), keeps_argmax
            )
            steps.append(beams)
        return chosen_slots(beams, keeps_argmax), steps


def make_round(device, num_reqs, beam_width, gamma, vocab_size, dtype=torch.float32, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    slots = num_reqs + 3
    states = torch.randperm(slots, generator=generator)[:num_reqs]
    temperature = torch.tensor([1.0, 0.7, 0.0, 1.3])[torch.arange(slots) % 4]
    batch = Round(
        states.to(device),
        torch.randint(0, 500, (num_reqs,), generator=generator).to(device),
        temperature.to(device),
        torch.randint(-(2**62), 2**62, (slots,), generator=generator).to(device),
        beam_width,
        gamma,
        vocab_size,
        **options,
    )
    logits = [
        (torch.randn(num_reqs * (beam_width if depth else 1), vocab_size, generator=generator) * 2).to(device, dtype)
        for depth in range(gamma)
    ]
    return batch, logits


def make_round_of_both_kinds(device, **options):
    """Of the requests at temperature 0 some are decoded losslessly and some jointly."""
    lossless = torch.arange(8 + 3, device=device) < 4
    batch, logits = make_round(device, 8, 4, 3, vocab_size=61, lossless=lossless, **options)
    cold = batch.states[batch.temperature[batch.states] == 0]
    assert set(lossless[cold].tolist()) == {True, False}
    return batch, logits
