"""vLLM's SpeculativeConfig with the method `mtad` and its fields.

vLLM compares `method` with literals in a few places. An mtad configuration is, to vLLM, a draft model with a
different drafting loop, so those places are met by calling the parent as `draft_model`.

Annotations stay real types here: vLLM makes command-line arguments from them.
"""

import copyreg
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from typing import Any, Literal, SupportsIndex

from vllm.config.speculative import SpeculativeConfig, SpeculativeMethod
from vllm.config.utils import config

from vllm_mtad.algorithm.acceptance import AcceptanceMode, CandidateTest
from vllm_mtad.config import checks
from vllm_mtad.config.candidate_schedule import schedule_of_nodes, with_candidate_rows
from vllm_mtad.config.draft_table import find_draft
from vllm_mtad.config.options import METHOD, OWN_FIELDS, DraftSampling, GreedyMode, MTADOptions
from vllm_mtad.config.sentences import one_sentence

MTADMethod = Literal[SpeculativeMethod, "mtad"]  # type: ignore[valid-type]  # vLLM is not type-checked here


@config
class MTADSpeculativeConfig(SpeculativeConfig):
    """SpeculativeConfig that also knows the method 'mtad' (Multi-Token Assisted Decoding)."""

    method: MTADMethod | None = None
    """The name of the speculative method, 'mtad' among them."""
    model: str | None = None
    """The name of the draft model. mtad finds one for a target of a known family."""
    beam_width: int | None = None
    """mtad: beams B that the draft model keeps (default 4). 1 is plain drafting with the joint test."""
    acceptance_threshold: float | None = None
    """mtad: threshold tau in [0, 1) that the joint ratio of target to draft must exceed (default 0.5)."""
    draft_sampling: DraftSampling | None = None
    """mtad: 'beam_sample' (default) draws beams without replacement from their joint distribution;
    'beam_search' keeps the most likely."""
    greedy: GreedyMode | None = None
    """mtad: at temperature 0, 'lossless' (default) gives greedy decoding's own text; 'joint' searches for
    text of higher joint likelihood."""
    acceptance: AcceptanceMode | None = None
    """mtad: 'joint' (default) keeps the longest prefix whose joint ratio passes; 'per_token' tests each
    token by itself."""
    num_candidates: int | None = None
    """mtad: drafts of a request that the target verifies in its one pass, as a tree: 1 (default) to beam_width."""
    candidate_test: CandidateTest | None = None
    """mtad: what another candidate than the chosen one is held against: its 'own' draft probability (default), or the
    chosen one's, 'reference'."""
    max_candidate_rows: int | None = None
    """mtad: rows of a step up to which the target verifies several candidates (default 128; 40 on a CPU). In larger
    batches it verifies one."""
    draft_length: int = field(default=0, init=False)
    """Draft tokens of one candidate: what the user calls num_speculative_tokens, which to vLLM are those of all
    candidates together. Not an option."""
    lossy: bool = field(default=False, init=False)
    """Whether sampled text may follow another distribution than the target's own. Not an option."""

    accepts_logit_bias: bool = field(default=False, init=False)
    """Whether requests may bring a logit bias: on Model Runner V2. Not an option."""

    def __post_init__(self) -> None:
        if self.method != METHOD:
            given = [name for name in OWN_FIELDS if getattr(self, name) is not None]
            if given:
                raise ValueError(f"speculative_config.{given[0]} is accepted with method='mtad' only.")
            SpeculativeConfig.__post_init__(self)
            return
        self.lossy = True
        options = with_candidate_rows(MTADOptions.from_mapping(vars(self)))
        for name in OWN_FIELDS:
            setattr(self, name, getattr(options, name))
        self.draft_length, self.num_speculative_tokens = options.num_speculative_tokens, options.num_nodes
        self.num_speculative_tokens_per_batch_size = schedule_of_nodes(
            options,
            self.num_speculative_tokens_per_batch_size,  # type: ignore[has-type]  # vLLM is not type-checked here
        )
        checks.check_combinable_fields(self)
        if self.model is None:
            self.model = find_draft(self.target_model_config)
        checks.check_draft_path(self.model)
        with self._as_draft_model():
            try:
                SpeculativeConfig.__post_init__(self)
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"speculative_config with model={self.model!r} cannot be used: {one_sentence(error)}"
                ) from error
            detected = self.method
        if detected != "draft_model":
            raise ValueError(
                f"speculative_config.model={self.model!r} is a {detected} head, not a draft model: mtad needs a"
                " complete causal language model."
            )
        checks.check_draft_model(self)

    @property
    def options(self) -> MTADOptions:
        return MTADOptions.from_mapping(vars(self) | {"num_speculative_tokens": self.draft_length})

    @contextmanager
    def _as_draft_model(self) -> Iterator[None]:
        self.method = "draft_model"
        try:
            yield
        finally:
            self.method = METHOD

    def uses_draft_model(self) -> bool:
        return self.method == METHOD or SpeculativeConfig.uses_draft_model(self)

    def verify_equal_vocab_size_if_draft_model(self) -> None:
        if self.method == METHOD:
            return  # checks.check_draft_model compares the vocabularies
        SpeculativeConfig.verify_equal_vocab_size_if_draft_model(self)

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """For another method, vLLM's own class is sent to other processes, which may not have this plugin."""
        if self.method == METHOD:
            return super().__reduce_ex__(protocol)
        own = {*OWN_FIELDS, "draft_length", "lossy", "accepts_logit_bias"}
        state = {name: value for name, value in vars(self).items() if name not in own}
        return copyreg._reconstructor, (SpeculativeConfig, object, None), state  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        own = f", options={self.options}" if self.method == METHOD else ""
        return SpeculativeConfig.__repr__(self)[:-1] + own + ")"
