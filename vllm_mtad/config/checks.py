"""These checks say what must be true of the draft model; every refusal is one sentence that names the field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm.logger import init_logger

from vllm_mtad.config.attention import unsupported_attention

if TYPE_CHECKING:
    from vllm.config import ModelConfig

    from vllm_mtad.config.speculative import MTADSpeculativeConfig

logger = init_logger("vllm.mtad")


def check_draft_path(model: str) -> None:
    """A draft that is named as a folder must be one; anything else is left to the hub."""
    named_as_path = model.startswith(("/", "./", "../", "~")) or model.count("/") > 1
    if named_as_path and "://" not in model and not Path(model).is_dir():
        raise ValueError(f"speculative_config.model={model!r} is not there: give a model folder or a hub id.")


def draft_file_problems(folder: Path) -> Iterator[str]:
    """Weights of a draft that are not there or cut short. A worker would end with a traceback over them.

    Args:
        folder: of the draft; a hub id is not looked into.
    """
    from safetensors import SafetensorError, safe_open

    if not folder.is_dir():
        return
    index = folder / "model.safetensors.index.json"
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if index.is_file():  # then vLLM reads what it names and nothing else
        try:
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            yield f"speculative_config.model={str(folder)!r}: {index.name} cannot be read ({error!r}): give it whole."
            return
    if not files and not any(next(folder.glob(pattern), None) for pattern in ("*.bin", "*.pt", "*.pth", "*.gguf")):
        yield f"speculative_config.model={str(folder)!r} has no weights: give a folder with *.safetensors files."
    for name in files:
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            yield f"speculative_config.model={str(folder)!r}: {name} cannot be read ({error}): give it whole."


def draft_problems(config: MTADSpeculativeConfig) -> Iterator[str]:
    """What speaks against the draft model, with this target."""
    draft, target = config.draft_model_config, config.target_model_config
    if feature := unsupported_attention(draft):
        yield (
            f"speculative_config.model={config.model!r} uses {feature}: mtad needs a draft with causal softmax"
            " attention in every layer."
        )
    if draft.is_multimodal_model or draft.uses_mrope:
        yield f"speculative_config.model={config.model!r} is a multimodal model: mtad needs a text draft."
    same_tokens = _same_tokenizer(target, draft)
    same_size = target.get_vocab_size() == draft.get_vocab_size()
    sizes = f"{target.get_vocab_size()} (target) and {draft.get_vocab_size()} (draft)"
    if same_tokens is False or (same_tokens is None and not same_size):
        yield (
            f"speculative_config.model={config.model!r} has another vocabulary than the target {target.model!r}"
            f" (sizes {sizes}): mtad needs a draft with the target's tokenizer."
        )


def _same_tokenizer(target: ModelConfig, draft: ModelConfig) -> bool | None:
    """Whether both tokenizers give ordinary tokens the same ids; None if either cannot be read.

    Tokens that are special in one of them may be named differently (Llama 3 against 3.2), or be ordinary in the other
    (placeholders of images or sounds), without changing what text means.
    """
    both = [
        _tokenizer(model, target.trust_remote_code, revision)
        for model, revision in ((target.tokenizer, target.tokenizer_revision), (draft.model, draft.revision))
    ]
    if any(tokenizer is None for tokenizer in both):
        logger.warning("mtad could not read both tokenizers and compares only the sizes of the vocabularies.")
        return None
    special = {token_id for tokenizer in both for token_id in tokenizer.added_tokens_decoder}
    of_target, of_draft = (
        {token: token_id for token, token_id in tokenizer.get_vocab().items() if token_id not in special}
        for tokenizer in both
    )
    return of_target == of_draft


def _tokenizer(name: str, trust_remote_code: bool, revision: str | None) -> Any:
    """None if it cannot be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, revision=revision)
    except (OSError, ValueError, KeyError):
        return None
