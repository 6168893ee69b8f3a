"""`schedule_of_nodes` tells vLLM how many draft tokens to schedule for a request.

They are the user's schedule of draft lengths, times the candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vllm.triton_utils import HAS_TRITON
from vllm.v1.spec_decode.dynamic.utils import validate_and_normalize_dynamic_sd_schedule

from vllm_mtad.config.options import MTADOptions

Schedule = list[tuple[int, int, int]]
"""(first batch size, last batch size, draft tokens), as vLLM's `num_speculative_tokens_per_batch_size`."""
_ANY_BATCH = 1 << 20
ROWS_ON_GPU = 128
"""A step costs about as much as reading the weights until its rows keep the device computing for as long: at 2 FLOPs a
row for each 2 bytes of a weight, peak FLOP/s over bytes/s rows. That is 295 on an H100 (989 T over 3.35 T), 153 on an
A100 (312 over 2.04), 165 on an RTX 4090 (165 over 1.0) and 403 on an L4 (121 over 0.3); 128 is below them.
"""
ROWS_ON_CPU = 40
"""Measured on two cores (`benchmarks/results/candidates-on-cpu`): four candidates of four tokens, 17 rows, pay with one
and two requests in flight and cost with four.
"""


def with_candidate_rows(options: MTADOptions) -> MTADOptions:
    """The options with a `max_candidate_rows`: the device's if none is given, room for one request at least."""
    if options.max_candidate_rows is not None:
        return options
    rows = ROWS_ON_GPU if HAS_TRITON else ROWS_ON_CPU  # vLLM's CPU engine is the one without Triton
    return replace(options, max_candidate_rows=max(rows, options.num_nodes + 1))


def schedule_of_nodes(options: MTADOptions, of_lengths: Schedule | None) -> Schedule | None:
    """vLLM's schedule, None for the same number at every batch size.

    A batch with more rows than `max_candidate_rows` verifies one candidate, and so does one that drafts fewer tokens
    than `num_speculative_tokens`: the schedule says that drafts do not pay there.
    """
    gamma = options.num_speculative_tokens
    if of_lengths is not None:
        of_lengths = validate_and_normalize_dynamic_sd_schedule(of_lengths)
    for first, last, length in of_lengths or ():
        if length > gamma:
            raise ValueError(
                f"speculative_config.num_speculative_tokens_per_batch_size has {length} draft tokens at batch sizes"
                f" {first} to {last}: give at most num_speculative_tokens, {gamma}."
            )
    if options.num_candidates == 1:
        return of_lengths
    lengths = of_lengths or [(1, _ANY_BATCH, gamma)]
    return list(_split(options, lengths))


def _split(options: MTADOptions, lengths: Schedule) -> Iterator[tuple[int, int, int]]:
    gamma = options.num_speculative_tokens
    assert options.max_candidate_rows is not None
    largest = options.max_candidate_rows // (options.num_nodes + 1)
    following = [first for first, _, _ in lengths[1:]] + [_ANY_BATCH + 1]
    for (first, last, length), next_first in zip(lengths, following):
        last = max(last, next_first - 1)  # vLLM goes on with an entry up to the next
        if length < gamma or first > largest:
            yield first, last, length
            continue
        yield first, min(last, largest), options.num_nodes
        if last > largest:
            yield largest + 1, last, gamma
