"""`ask` gives what `vllm serve` would say of a pair with mtad, on either model runner, without any weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from vllm_mtad.config.errors import RefusalError, collecting, one_sentence
from vllm_mtad.config.options import METHOD

Config = Mapping[str, Any]
MAX_MODEL_LEN = 1024
STAND_INS = {
    "Gemma3ForConditionalGeneration": "idefics3:Idefics3ForConditionalGeneration",
    "LlavaForConditionalGeneration": "idefics3:Idefics3ForConditionalGeneration",
    "Qwen3_5ForCausalLM": "qwen3_next:Qwen3NextForCausalLM",
}
"""vLLM imports these classes with torchvision only. Of a class the checks ask what kind it is: another one of that kind
stands for it.
"""


@dataclass(frozen=True)
class Pair:
    """Two config.json, and how they are served. `swaps_words`: whether the draft's tokenizer is another one. `fields`:
    others of `--speculative-config`.
    """

    target: Config
    draft: Config
    options: Mapping[str, Any] = field(default_factory=dict)
    swaps_words: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Why each model runner refuses a pair; nothing if it accepts it."""

    v2: tuple[str, ...]
    v1: tuple[str, ...]


def ask(pair: Pair) -> Verdict:
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    with TemporaryDirectory() as folder:
        target, draft = Path(folder, "target"), Path(folder, "draft")
        _save(target, pair.target)
        _save(draft, pair.draft, pair.swaps_words)
        asked = {"method": METHOD, "model": str(draft), **pair.fields}
        reasons = {v2: _reasons(str(target), asked, pair.options, v2) for v2 in (True, False)}
    short = {str(target): "TARGET", str(draft): "DRAFT"}
    return Verdict(*(tuple(_shortened(reason, short) for reason in reasons[v2]) for v2 in (True, False)))


def _reasons(target: str, asked: dict[str, Any], options: Mapping[str, Any], v2: bool) -> list[str]:
    """vLLM chooses Model Runner V2 where Triton is: here it is told so. What only a GPU's platform refuses is not
    asked.
    """
    from vllm.engine.arg_utils import EngineArgs

    given: dict[str, Any] = {"max_model_len": MAX_MODEL_LEN, "load_format": "dummy", **options}
    with (
        patch("vllm.config.vllm.HAS_TRITON", v2),
        patch("vllm_mtad.config.candidate_schedule.HAS_TRITON", v2),
        _stand_ins(),
        collecting() as refused,
    ):
        arguments = EngineArgs(model=target, speculative_config=asked, **given)
        try:
            runs_v2 = arguments.create_engine_config().use_v2_model_runner
            assert runs_v2 == v2, "the other model runner was chosen"
        except RefusalError as error:
            refused.sentences += error.reasons.sentences
        except ValueError as error:
            refused.sentences.append(one_sentence(error))
    return list(dict.fromkeys(refused.sentences))


@contextmanager
def _stand_ins() -> Iterator[None]:
    from vllm.model_executor.models import ModelRegistry

    with patch.dict(ModelRegistry.models):
        for architecture, stand_in in STAND_INS.items():
            ModelRegistry.register_model(architecture, f"vllm.model_executor.models.{stand_in}")
        yield


def _shortened(reason: str, short: Mapping[str, str]) -> str:
    for path, name in short.items():
        reason = reason.replace(path, name)
    return reason


def _save(folder: Path, config: Config, swaps_words: bool = False) -> None:
    """With a tokenizer of a few words; in another one, two have changed places."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    words = ["<unk>", "<s>", "</s>", "a", "b", "c"]
    if swaps_words:
        words[3:5] = "b", "a"
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
