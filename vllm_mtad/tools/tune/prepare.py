"""`read_inputs` reads and checks the user's input before any engine starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from vllm_mtad.config.errors import one_sentence
from vllm_mtad.tools.harness.checker import Checker, load_checker
from vllm_mtad.tools.harness.engines import options_for
from vllm_mtad.tools.harness.errors import InputError
from vllm_mtad.tools.harness.prompts import Prompt, read_prompts, tokenized
from vllm_mtad.tools.tune.settings import Settings
from vllm_mtad.tools.tune.timing import ANSWERS_IN_FLIGHT


@dataclass(frozen=True)
class Inputs:
    """`prompt_ids`: `[num_prompts]` lists of tokens; `engine`: the options of every engine."""

    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    checker: Checker | None
    engine: dict[str, Any]


def read_inputs(settings: Settings) -> Inputs:
    """
    Raises:
        InputError: naming what cannot be used.
    """
    prompts = read_prompts(settings.prompts)[: settings.num_prompts]
    checker = None if settings.checker is None else load_checker(settings.checker)
    if checker is not None:
        checker.try_out(prompts[0])
    _check_engine_options(settings.engine)
    prompt_ids = _tokenized(settings, prompts)
    length = _model_length(settings, prompts, prompt_ids)
    engine = options_for(length, max(ANSWERS_IN_FLIGHT, *settings.concurrency), settings.together)
    engine |= {"dtype": settings.dtype}
    return Inputs(prompts, prompt_ids, checker, engine | settings.engine)


def _check_engine_options(options: dict[str, Any]) -> None:
    from vllm import EngineArgs

    known = {f.name for f in fields(EngineArgs)}
    for name in options:
        if name not in known:
            raise InputError(f"--engine {name!r} is not an option of vLLM's LLM: give names such as 'max_model_len'.")


def _tokenized(settings: Settings, prompts: Sequence[Prompt]) -> list[list[int]]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.target, **_trust(settings))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"--target={settings.target!r}: its tokenizer cannot be read ({one_sentence(error)})."
        ) from error
    if settings.chat and not tokenizer.chat_template:
        raise InputError(f"--chat is given, but the tokenizer of --target={settings.target!r} has no chat template.")
    found = tokenized(tokenizer, [prompt.text for prompt in prompts], settings.chat)
    for prompt, ids in zip(prompts, found):
        if not ids:
            raise InputError(f"{settings.prompts}, line {prompt.line}: the target's tokenizer gives no token for it.")
    return found


def _trust(settings: Settings) -> dict[str, Any]:
    return {"trust_remote_code": settings.engine.get("trust_remote_code", False)}


def _model_length(settings: Settings, prompts: Sequence[Prompt], prompt_ids: Sequence[Sequence[int]]) -> int:
    """Room for the longest prompt, its completion and a draft after that."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(settings.target, **_trust(settings)).get_text_config()
    given = settings.engine.get("max_model_len")
    limit = given or getattr(config, "max_position_embeddings", None)
    longest = max(range(len(prompts)), key=lambda at: len(prompt_ids[at]))
    needed = len(prompt_ids[longest]) + settings.max_tokens + 1  # the likelihood is asked for with one token more
    if isinstance(limit, int) and needed > limit:
        raise InputError(
            f"{settings.prompts}, line {prompts[longest].line}: {len(prompt_ids[longest])} tokens and"
            f" --max-tokens={settings.max_tokens} do not fit in the target's length of {limit}: shorten one of them."
        )
    room = needed + max(settings.grid.num_speculative_tokens)
    return given or (min(room, limit) if isinstance(limit, int) else room)
