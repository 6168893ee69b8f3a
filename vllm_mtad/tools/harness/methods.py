"""A way to decode (`Method`) is a speculative configuration and how the requests sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from vllm_mtad.config.options import METHOD, MTADOptions

DEFAULT = MTADOptions()
SCHEDULE = "num_speculative_tokens_per_batch_size"
_SYMBOLS = {"num_speculative_tokens": "γ", "beam_width": "B", "acceptance_threshold": "τ", "num_candidates": "C"}


@dataclass(frozen=True)
class Sampling:
    """How requests sample. The defaults are the paper's: T = 1, top-k 10, top-p 0.9."""

    temperature: float = 1.0
    top_k: int = 10
    top_p: float = 0.9

    def params(self, max_tokens: int, stop: Sequence[str] = ()) -> Any:
        """vLLM's SamplingParams, which gives each target call's tokens on its own."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        greedy = self.temperature == 0
        return SamplingParams(
            temperature=self.temperature,
            top_k=0 if greedy else self.top_k,
            top_p=1.0 if greedy else self.top_p,
            max_tokens=max_tokens,
            stop=list(stop),
            output_kind=RequestOutputKind.DELTA,
        )


PAPER = Sampling()


@dataclass(frozen=True)
class Method:
    """A way to decode.

    `name`: says what differs from the defaults. `speculative`: vLLM's speculative_config but for the draft model, as
    sorted pairs; None for the target alone.
    """

    family: str
    name: str
    speculative: tuple[tuple[str, Any], ...] | None = None
    sampling: Sampling = PAPER

    @property
    def num_speculative_tokens(self) -> int:
        return int(dict(self.speculative or ()).get("num_speculative_tokens", 0))

    @property
    def full_name(self) -> str:
        """`name` with γ, B and τ in full, defaults too."""
        config = dict(self.speculative or ())
        if self.family != METHOD:
            return f"{self.family} γ={self.num_speculative_tokens}" if config else "target alone"
        more = [f"C={config['num_candidates']}"] if config["num_candidates"] > 1 else []
        gamma, width, tau = (config[name] for name in list(_SYMBOLS)[:3])
        lengths = f"γ≤{gamma} by schedule" if SCHEDULE in config else f"γ={gamma}"
        return " ".join([f"MTAD {lengths} B={width} τ={tau:g}", *more])

    @property
    def has_draft_model(self) -> bool:
        return self.family in ("draft_model", METHOD)

    def speculative_config(self, draft: str) -> dict[str, Any] | None:
        """What vLLM is given; `draft` is the draft model's folder or hub id."""
        if self.speculative is None:
            return None
        config = dict(self.speculative) | ({"model": draft} if self.has_draft_model else {})
        return config | ({SCHEDULE: list(config[SCHEDULE])} if SCHEDULE in config else {})


def _method(
    family: str, label: str, config: dict[str, Any] | None, sampling: Sampling, differences: list[str]
) -> Method:
    if sampling.temperature != PAPER.temperature:
        differences = [*differences, f"T={sampling.temperature:g}"]
    speculative = None if config is None else tuple(sorted(config.items()))
    return Method(family, " ".join([label, *differences]), speculative, sampling)


def target_alone(sampling: Sampling = PAPER) -> Method:
    return _method("target", "target alone", None, sampling, [])


def draft_model(num_speculative_tokens: int = DEFAULT.num_speculative_tokens, sampling: Sampling = PAPER) -> Method:
    """vLLM's vanilla speculative decoding with probabilistic drafts."""
    config = {"num_speculative_tokens": num_speculative_tokens, "draft_sample_method": "probabilistic"}
    differences = [f"γ={num_speculative_tokens}"] if num_speculative_tokens != DEFAULT.num_speculative_tokens else []
    return _method("draft_model", "draft_model", config | {"method": "draft_model"}, sampling, differences)


def block_verification(sampling: Sampling = PAPER) -> Method:
    """vLLM's lossless verification of a draft's joint prefix, which Model Runner V2 has."""
    config = dict(draft_model().speculative or ()) | {"rejection_sample_method": "block"}
    return _method("draft_model", "draft_model block verification", config, sampling, [])


def ngram(num_speculative_tokens: int = DEFAULT.num_speculative_tokens, sampling: Sampling = PAPER) -> Method:
    config = {"method": "ngram", "num_speculative_tokens": num_speculative_tokens}
    config |= {"prompt_lookup_min": 2, "prompt_lookup_max": 4}
    return _method("ngram", "n-gram", config, sampling, [])


def mtad(
    options: MTADOptions = DEFAULT, sampling: Sampling = PAPER, schedule: Sequence[tuple[int, int, int]] | None = None
) -> Method:
    """MTAD; the name says what differs from its defaults. `schedule`: vLLM's, of draft lengths by batch size."""
    values = {f.name: value for f in fields(options) if (value := getattr(options, f.name)) is not None}
    differences = [
        f"{_SYMBOLS[name]}={value}" if name in _SYMBOLS else f"{name}={value}"
        for name, value in values.items()
        if value != getattr(DEFAULT, name)
    ]
    if schedule is not None:
        values[SCHEDULE] = tuple(schedule)
        differences.append("by schedule")
    return _method(METHOD, "MTAD", values | {"method": METHOD}, sampling, differences)
