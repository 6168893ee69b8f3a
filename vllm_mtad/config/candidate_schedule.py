"""How many draft tokens vLLM schedules for a request: the user's schedule of draft lengths, times the candidates."""

from __future__ import annotations

from collections.abc import Iterator

from vllm.v1.spec_decode.dynamic.utils import validate_and_normalize_dynamic_sd_schedule

from vllm_mtad.config.options import MTADOptions

Schedule = list[tuple[int, int, int]]
"""(first batch size, last batch size, draft tokens), as vLLM's `num_speculative_tokens_per_batch_size`."""
_ANY_BATCH = 1 << 20


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
