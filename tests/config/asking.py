"""Asking for mtad, in a program and on the command line, and being refused."""

import pytest
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

from vllm_mtad.releases import moved


def create(target: str, speculative_config, **engine_options) -> VllmConfig:
    engine_options = {"max_model_len": 128, "enforce_eager": True} | engine_options
    return EngineArgs(model=target, speculative_config=speculative_config, **engine_options).create_engine_config()


def parse(target: str, *flags: str) -> VllmConfig:
    """What `vllm serve TARGET FLAGS` makes of its flags."""
    make_arg_parser = moved("make_arg_parser")
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", target, "--max-model-len", "128", *flags])
    return EngineArgs.from_cli_args(args).create_engine_config()


def refusal(target: str, speculative_config, **engine_options) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        create(target, speculative_config, **engine_options)
    message = str(error.value)
    assert "\n" not in message, "more than one sentence"
    return message
