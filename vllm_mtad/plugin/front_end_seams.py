"""These patches (seams) change vLLM's front end: the command line, the engine arguments, the sampling parameters."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from vllm_mtad.config.errors import one_sentence, refused_at_once
from vllm_mtad.config.options import METHOD, MODES, OWN_FIELDS, MTADOptions, is_mtad
from vllm_mtad.plugin.availability import check_available

logger = logging.getLogger("vllm.mtad")

CPU_BLOCK_SIZE = 32
"""The smallest that vLLM's CPU attention is optimized for."""


def accept_bare_method(add_cli_args: Callable) -> Callable:
    """Accept `--speculative-config mtad`, and list MTAD's fields in `--help`."""

    @functools.wraps(add_cli_args)
    def with_bare_method(parser: Any) -> Any:
        parser = add_cli_args(parser)
        actions = parser._option_string_actions
        if config := actions.get("--speculative-config"):
            config.type = _json_or_method(config.type)
            config.help = f"{config.help or ''}\n\n{_help_text()}"
        if (method := actions.get("--spec-method")) and method.choices and METHOD not in method.choices:
            method.choices = [*method.choices, METHOD]
        return parser

    return with_bare_method


def _json_or_method(parse_json: Callable[[str], Any]) -> Callable[[str], Any]:
    @functools.wraps(parse_json)
    def parse(value: str) -> Any:
        return {"method": METHOD} if value.strip().lower() == METHOD else parse_json(value)

    return parse


def _help_text() -> str:
    defaults = {name: getattr(MTADOptions(), name) for name in OWN_FIELDS}
    described = ", ".join(
        f"{name} (default {'by device' if default is None else default}"
        + (f"; one of {', '.join(MODES[name])})" if name in MODES else ")")
        for name, default in defaults.items()
    )
    return f"vllm-mtad: `mtad` alone chooses a draft for a known target; fields of method mtad: {described}."


def check_engine_config(create_engine_config: Callable) -> Callable:
    """The shorthand string becomes a mapping; the finished configuration is checked, and all that speaks against it
    said at once; the line that says mtad is on is logged.
    """

    @functools.wraps(create_engine_config)
    def with_checks(self: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.speculative_config, str) and self.speculative_config.strip().lower() == METHOD:
            self.speculative_config = {"method": METHOD}
        if not _asks_for_mtad(self):
            return create_engine_config(self, *args, **kwargs)
        check_available()
        _choose_block_size(self)
        config = refused_at_once(functools.partial(_checked, create_engine_config, self, *args, **kwargs))
        if not config.use_v2_model_runner:
            # The layers of both models in one group: those with a window keep KV of whole texts, too.
            config.scheduler_config.disable_hybrid_kv_cache_manager = True
        config.speculative_config.accepts_logit_bias = config.use_v2_model_runner
        _say_that_it_is_on(config.speculative_config)
        return config

    return with_checks


def _checked(create_engine_config: Callable, *args: Any, **kwargs: Any) -> Any:
    from vllm_mtad.config.engine_checks import check_engine

    config = _in_one_sentence(create_engine_config, *args, **kwargs)
    check_available("v2" if config.use_v2_model_runner else "v1")
    check_engine(config)
    return config


def _say_that_it_is_on(speculative_config: Any) -> None:
    options = speculative_config.options
    logger.info(
        "MTAD is on: beam_width=%d, num_speculative_tokens=%d, num_candidates=%d, acceptance_threshold=%g,"
        " draft %s. It is lossy: sampled text is not distributed as the target's own (greedy=%r at temperature 0).",
        options.beam_width,
        options.num_speculative_tokens,
        options.num_candidates,
        options.acceptance_threshold,
        speculative_config.model,
        options.greedy,
    )


def _choose_block_size(engine_args: Any) -> None:
    from vllm.platforms import current_platform

    if current_platform.is_cpu() and engine_args.block_size is None:
        engine_args.block_size = CPU_BLOCK_SIZE
        logger.info("MTAD takes block_size=%d: each beam copies whole blocks, and vLLM's are 128 here.", CPU_BLOCK_SIZE)


def check_speculative_config(create_speculative_config: Callable) -> Callable:
    """Say what is wrong with an mtad option in one sentence."""

    @functools.wraps(create_speculative_config)
    def with_sentences(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _asks_for_mtad(self):
            return create_speculative_config(self, *args, **kwargs)
        check_available()  # here too: it may be the other seam that is missing
        return _in_one_sentence(create_speculative_config, self, *args, **kwargs)

    return with_sentences


def _in_one_sentence(create: Callable, *args: Any, **kwargs: Any) -> Any:
    from pydantic import ValidationError

    try:
        return create(*args, **kwargs)
    except ValidationError as error:
        raise ValueError(one_sentence(error)) from None


def _asks_for_mtad(engine_args: Any) -> bool:
    given = engine_args.speculative_config
    method = given.get("method") if isinstance(given, dict) else None
    return METHOD in (method, engine_args.spec_method)


def accept_sampling_parameters(validate: Callable) -> Callable:
    """min-p passes with mtad, logit bias where the runner applies it at every row, and what a request asks of mtad."""

    @functools.wraps(validate)
    def with_mtad(self: Any, speculative_config: Any) -> None:
        if not is_mtad(speculative_config):
            return validate(self, speculative_config)
        from vllm.exceptions import VLLMValidationError

        from vllm_mtad.config.request_options import RequestOptionError, RequestOptions

        refused = (
            ["logprob_token_ids"] if speculative_config.accepts_logit_bias else ["logprob_token_ids", "logit_bias"]
        )
        for name in refused:
            if getattr(self, name):
                raise VLLMValidationError(
                    f"The {name} sampling parameter is not supported with speculative method 'mtad'.", parameter=name
                )
        try:
            RequestOptions.of(self.extra_args)
        except RequestOptionError as error:
            raise VLLMValidationError(str(error), parameter=error.name, value=error.value) from None

    return with_mtad
