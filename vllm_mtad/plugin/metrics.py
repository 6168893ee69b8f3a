"""`MTADMetrics` adds to what vLLM's `/metrics` shows of speculative decoding, where the method is mtad.

vLLM has an entry point for such things, `vllm.stat_logger_plugins`; but where a plugin uses it, `--disable-log-stats`
no longer does what it says, for every method.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import prometheus_client
from typing_extensions import override
from vllm.v1.metrics.utils import create_metric_per_engine
from vllm.v1.spec_decode.metrics import SpecDecodingProm, SpecDecodingStats

CALL_TOKENS = "vllm:mtad_call_tokens"
STEPS = "vllm:mtad_steps"


class MTADMetrics(SpecDecodingProm):
    """vLLM's counters, and:

    `vllm:mtad_call_tokens`, a histogram of the tokens that a request gets from a call of the target with a draft: the
    kept ones, tokens after a stop among them, and the target's own. Placeholder drafts count too, with which vLLM
    pads a request's first step, and on V2 those of requests that keep none. Its buckets are 1, 2, ... gamma + 1, so
    their differences are the shares of calls by accepted length.

    `vllm:mtad_steps_total`, a counter of engine steps in which drafts were verified, by `draft_tokens`, the largest
    number of a request; of several candidates, their rows. With one API server, steps that gave tokens and had no
    drafts are what is missing to `vllm:iteration_tokens_total_count`.
    """

    def __init__(
        self,
        speculative_config: Any,
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
        is_diffusion: bool = False,
    ) -> None:
        super().__init__(speculative_config, labelnames, per_engine_labelvalues, is_diffusion)
        gamma = speculative_config.options.num_speculative_tokens
        call_tokens = prometheus_client.Histogram(
            name=CALL_TOKENS,
            documentation="Tokens of a request from one call of the target with a draft.",
            buckets=[float(n) for n in range(1, gamma + 2)],
            labelnames=labelnames,
        )
        self._call_tokens: dict[int, Any] = create_metric_per_engine(call_tokens, per_engine_labelvalues)
        steps = self._counter_cls(
            name=STEPS,
            documentation="Engine steps that verified drafts, by the largest number of draft tokens of a request.",
            labelnames=[*labelnames, "draft_tokens"],
        )
        self._steps, self._labels = steps, per_engine_labelvalues

    @override
    def observe(self, spec_decoding_stats: SpecDecodingStats, engine_idx: int = 0) -> None:
        super().observe(spec_decoding_stats, engine_idx)
        if not spec_decoding_stats.num_drafts:
            return
        # Calls that kept at least so many tokens; 0 ends the list, as none kept more than all.
        at_least = [spec_decoding_stats.num_drafts, *spec_decoding_stats.num_accepted_tokens_per_pos, 0]
        for kept, (these, longer) in enumerate(pairwise(at_least)):
            for _ in range(these - longer):
                self._call_tokens[engine_idx].observe(kept + 1)
        # 0 where a grammar took all draft tokens of a call back.
        if longest := sum(count > 0 for count in spec_decoding_stats.num_draft_tokens_per_pos):
            self._steps.labels(*self._labels[engine_idx], str(longest)).inc()
