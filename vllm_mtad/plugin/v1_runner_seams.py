"""These patches (seams) of the V1 model runner join its proposer and its rejection sampler."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm_mtad.config.options import is_mtad


def hand_over_draft(get_draft_probs: Callable) -> Callable:
    @functools.wraps(get_draft_probs)
    def with_handover(self: Any, spec_decode_metadata: Any) -> Any:
        if not is_mtad(self.speculative_config):
            return get_draft_probs(self, spec_decode_metadata)
        return self.drafter.hand_over(self._draft_probs, self._draft_prob_req_ids)

    return with_handover


def always_draft(input_fits_in_drafter: Callable) -> Callable:
    """Leave it to MTADProposer, which decides per request (`MTADProposer.propose`)."""

    @functools.wraps(input_fits_in_drafter)
    def per_request(self: Any, common_attn_metadata: Any) -> bool:
        if not is_mtad(self.speculative_config):
            return input_fits_in_drafter(self, common_attn_metadata)
        return common_attn_metadata is not None

    return per_request


def keep_generators_of_partial_prefills(bookkeeping_sync: Callable) -> Callable:
    """Hide from the bookkeeping the generators that MTADRejectionSampler did not draw from."""

    @functools.wraps(bookkeeping_sync)
    def with_generators_hidden(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_mtad(self.speculative_config):
            return bookkeeping_sync(self, *args, **kwargs)
        generators = self.input_batch.generators
        hidden = {i: generators.pop(i) for i in list(generators) if self.discard_request_mask.np[i]}
        try:
            return bookkeeping_sync(self, *args, **kwargs)
        finally:
            generators.update(hidden)

    return with_generators_hidden
