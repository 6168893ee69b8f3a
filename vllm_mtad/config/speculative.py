"""`MTADSpeculativeConfig` is vLLM's SpeculativeConfig for the method `mtad`.

To vLLM, mtad is a draft model with another drafting loop. vLLM compares `method` with literals in a few places, so its
own part is made as `draft_model` and called `mtad` afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from typing_extensions import override
from vllm.config.speculative import SpeculativeConfig

from vllm_mtad.config import checks
from vllm_mtad.config.candidate_schedule import schedule_of_nodes, with_candidate_rows
from vllm_mtad.config.draft_table import find_draft, other_draft
from vllm_mtad.config.errors import Reasons, RefusalError, one_sentence, refuse
from vllm_mtad.config.options import METHOD, OWN_FIELDS, MTADOptions
from vllm_mtad.config.refusals import field_problems

if TYPE_CHECKING:
    from vllm.config import ModelConfig

OF_DRAFT = "speculative_config.model="
"""What a sentence that refuses the draft begins with."""


class MTADSpeculativeConfig(SpeculativeConfig):
    """A SpeculativeConfig whose method is 'mtad' (Multi-Token Assisted Decoding).

    Attributes:
        options: MTAD's own, `num_speculative_tokens` of one candidate among them. What vLLM calls
            `num_speculative_tokens` are those of all candidates together.
        lossy: True: sampled text may follow another distribution than the target's own.
        accepts_logit_bias: whether requests may bring a logit bias: on Model Runner V2.
    """

    method: Any  # vLLM's, a literal without 'mtad'

    def __init__(self, **given: Any) -> None:
        """
        Args:
            given: the fields of `--speculative-config`, and the target's configuration as vLLM adds it.
        Raises:
            ValueError: sentences that each name a field, its value and what is accepted.
        """
        options, problems = MTADOptions.judged(given)
        refuse([*problems, *field_problems(given)])
        options = with_candidate_rows(options)
        target = given["target_model_config"]
        model = given.get("model") or find_draft(target.model, target.hf_config.to_dict())
        advice = _advice(target, model)
        try:
            checks.check_draft_path(model)
        except ValueError as error:
            raise RefusalError(Reasons([str(error)], advice)) from None
        fields = {name: value for name, value in given.items() if name not in OWN_FIELDS}
        fields |= {
            "method": "draft_model",
            "model": model,
            "num_speculative_tokens": options.num_nodes,
            "num_speculative_tokens_per_batch_size": schedule_of_nodes(
                options, given.get("num_speculative_tokens_per_batch_size")
            ),
        }
        try:
            super().__init__(**fields)
        except (OSError, ValueError) as error:
            if isinstance(error, ValidationError) and error.errors()[0]["type"] != "value_error":
                raise ValueError(f"speculative_config.{one_sentence(error)}") from error  # of a field, not of the model
            sentence = f"speculative_config with model={model!r} cannot be used: {one_sentence(error)}"
            raise RefusalError(Reasons([sentence], advice)) from error
        if self.method != "draft_model":
            sentence = (
                f"{OF_DRAFT}{model!r} is a {self.method} head, not a draft model: mtad needs a complete causal language"
                " model."
            )
            raise RefusalError(Reasons([sentence], advice))
        self.method = METHOD
        self.options, self.lossy, self.accepts_logit_bias = options, True, False
        self.refuse(checks.draft_problems(self))

    def refuse(self, problems: Iterable[str]) -> None:
        """As `errors.refuse`; for the draft's sake, with another one that is known for the target."""
        sentences = list(problems)
        of_draft = any(sentence.startswith(OF_DRAFT) for sentence in sentences)
        refuse(sentences, _advice(self.target_model_config, self.model) if of_draft else None)

    @property
    def common_vocab_size(self) -> int:
        """Tokens of both models; no others are drafted. Both pad one vocabulary, perhaps to different sizes."""
        return min(self.target_model_config.get_vocab_size(), self.draft_model_config.get_vocab_size())

    @property
    def draft_lacks_ids(self) -> bool:
        """Whether a text may hold ids for which the draft has no embedding: of the target's padding, which prompts can
        name, or of what stands for an image. There the draft model reads another token.
        """
        target, draft = self.target_model_config, self.draft_model_config
        return target.is_multimodal_model or draft.get_vocab_size() < target.get_vocab_size()

    @override
    def uses_draft_model(self) -> bool:
        return True

    def draft_shares_target_positions(self) -> bool:
        """As vLLM says it of `draft_model`: a draft's window is its own. (Asked by 0.33.)"""
        return False

    @override
    def verify_equal_vocab_size_if_draft_model(self) -> None:
        """Do nothing: `checks.draft_problems` compares the vocabularies."""

    def __repr__(self) -> str:
        return f"{SpeculativeConfig.__repr__(self)[:-1]}, options={self.options})"


def _advice(target: ModelConfig, refused: str) -> str | None:
    draft = other_draft(target.model, target.hf_config.to_dict(), refused)
    return None if draft is None else f"For this target mtad knows the draft {draft!r}."
