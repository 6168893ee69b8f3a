"""`vllm-mtad doctor` says, without loading a weight, whether mtad would be refused with a server's flags, and why.

It makes the configuration that `vllm serve` would make of the same flags, and asks our checks for all that they have to
say. What vLLM itself refuses ends that; whether the memory suffices only a start can tell.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NoReturn

from vllm_mtad.config.errors import RefusalError, collecting, one_sentence
from vllm_mtad.config.options import METHOD
from vllm_mtad.releases import moved
from vllm_mtad.tools.harness.errors import InputError


@dataclass
class Diagnosis:
    """`facts`: (name, sentence) of what was found. `reasons`: why mtad would be refused; none if it would start."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.facts)
        lines = [f"{name:<{width}}  {sentence}" for name, sentence in self.facts]
        if not self.reasons:
            return "\n".join([*lines, "", "Nothing speaks against starting a server with these flags and mtad."])
        reasons = [f"- {reason}" for reason in self.reasons]
        return "\n".join([*lines, "", "A server with these flags would not start with mtad:", *reasons])


def add_doctor(commands: argparse._SubParsersAction) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="say whether a server would start with mtad, and all that speaks against it",
        description="Say whether `vllm serve TARGET --speculative-config mtad` would be refused, without loading a"
        " weight. Flags of `vllm serve` may follow. The exit status is 0 if nothing speaks against it, 1 if not.",
    )
    doctor.add_argument("target", help="a model folder or hub id")
    doctor.add_argument("draft", nargs="?", help="a model folder or hub id (default: what is known for the target)")


def flags_of_server(given: list[str]) -> list[str]:
    """What follows the models: `vllm serve`'s flags. -h is the doctor's own."""
    flags = [at for at, word in enumerate(given) if word.startswith("-") and word not in ("-h", "--help")]
    return given[flags[0] :] if flags else []


def diagnose(target: str, draft: str | None, flags: list[str]) -> Diagnosis:
    """
    Args:
        flags: `vllm serve`'s own.
    Raises:
        InputError: for a flag that vLLM does not know.
    """
    found = Diagnosis([("versions", f"vllm-mtad {version('vllm-mtad')}, vLLM {version('vllm')}")])
    arguments = _engine_arguments(target, draft, flags)
    config: Any = None
    with collecting() as refused:
        try:
            config = arguments.create_engine_config()
        except RefusalError as error:  # one that leaves nothing to ask further
            refused.sentences += error.reasons.sentences
        except Exception as error:  # not one of ours
            refused.sentences.append(one_sentence(error))
    found.reasons = refused.sentences
    found.facts.append(("seams", _seams(None if config is None else _runner(config))))
    found.facts.append(("known draft", _known_draft(target, getattr(arguments, "trust_remote_code", False))))
    if config is not None:
        found.facts += _sizes(config)
    return found


def _engine_arguments(target: str, draft: str | None, flags: list[str]) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.plugins import load_general_plugins
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    def complain(message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}: give flags of `vllm serve`.")

    load_general_plugins()
    parser = moved("make_arg_parser")(FlexibleArgumentParser())
    parser.error = complain  # type: ignore[method-assign]
    try:
        parsed = parser.parse_args(["--model", target, *flags])
        if parsed.model_tag is not None:
            raise InputError(f"{parsed.model_tag!r} stands behind flags: give target and draft before them.")
        arguments = AsyncEngineArgs.from_cli_args(parsed)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(one_sentence(error)) from None
    given = arguments.speculative_config
    if isinstance(given, str):
        given = None
    fields = {"method": METHOD} | (given or {})
    if arguments.spec_method not in (None, METHOD):
        fields["method"] = arguments.spec_method
    model = draft or arguments.spec_model
    if model is not None:
        fields["model"] = model
    if arguments.spec_tokens is not None:
        fields["num_speculative_tokens"] = arguments.spec_tokens
    if fields["method"] != METHOD:
        raise InputError(f"--speculative-config asks for the method {fields['method']!r}: the doctor knows mtad.")
    arguments.speculative_config = fields
    arguments.spec_model = arguments.spec_method = arguments.spec_tokens = None
    return arguments


def _runner(config: Any) -> str:
    return "v2" if config.use_v2_model_runner else "v1"


def _seams(runner: str | None) -> str:
    from vllm_mtad.plugin.availability import differences, is_tested_vllm
    from vllm_mtad.plugin.seams import SEAMS, has_place, why_missing

    own = [seam for seam in SEAMS if seam.runner in (None, runner) and (not seam.may_be_absent or has_place(seam))]
    missing = [f"{seam.module}.{seam.name} ({why})" for seam in own if (why := why_missing(seam))]
    if not is_tested_vllm() and (differs := list(differences(runner))):
        return f"this vLLM was not tested, and is not as mtad needs it: {'; '.join(differs)}"
    if missing:
        return f"{len(missing)} of {len(own)} do not stand: {', '.join(missing)}"
    return f"all {len(own)} stand" + (f", those of Model Runner {runner.upper()} among them" if runner else "")


def _known_draft(target: str, trust_remote_code: bool) -> str:
    from transformers import PretrainedConfig

    from vllm_mtad.config.draft_table import find_draft

    try:
        config, _ = PretrainedConfig.get_config_dict(target, trust_remote_code=trust_remote_code)
        return find_draft(target, config)
    except (OSError, ValueError) as error:
        return f"none ({re.sub(r'[.]$', '', one_sentence(error))})"


def _sizes(config: Any) -> list[tuple[str, str]]:
    speculative, scheduler = config.speculative_config, config.scheduler_config
    options, target, draft = speculative.options, config.model_config, speculative.draft_model_config
    rows = options.num_nodes + 1
    return [
        ("runner", f"Model Runner {_runner(config).upper()} on {config.device_config.device_type}"),
        *((name, _model(model)) for name, model in (("target", target), ("draft", draft))),
        (
            "rows",
            f"{rows} of the target a request and step, {rows * scheduler.max_num_seqs} with max_num_seqs="
            f"{scheduler.max_num_seqs} in flight; max_num_batched_tokens={scheduler.max_num_batched_tokens}",
        ),
        ("scratch", _scratch_v2(config) if config.use_v2_model_runner else _scratch_v1(config)),
    ]


def _model(model: Any) -> str:
    dtype = str(model.dtype).removeprefix("torch.")
    return (
        f"{model.model}: {', '.join(model.architectures)}, {dtype}, {model.max_model_len} tokens, a vocabulary of"
        f" {model.get_vocab_size()}"
    )


def _token_bytes(model: Any, parallel: Any) -> int:
    """Of the keys and values of one token, unquantized."""
    heads, layers = model.get_num_kv_heads(parallel), model.get_num_layers(parallel)
    return 2 * layers * heads * model.get_head_size() * model.dtype.itemsize


def _scratch_v1(config: Any) -> str:
    from vllm_mtad.runners.v1.scratch import MAX_SHARE_OF_BEAMS, ScratchPlan

    speculative, block_size = config.speculative_config, config.cache_config.block_size
    plan = ScratchPlan.of_blocks(config, block_size, None)
    of_target = _token_bytes(config.model_config, config.parallel_config)
    of_draft = _token_bytes(speculative.draft_model_config, speculative.draft_parallel_config)
    size = plan.num_blocks * block_size * (of_target + of_draft)
    return (
        f"{plan.num_blocks} KV blocks of {block_size} tokens ({size / 2**20:.1f} MiB), of which beams take less"
        f" if theirs are more than {MAX_SHARE_OF_BEAMS:.0%} of the KV cache"
    )


def _scratch_v2(config: Any) -> str:
    speculative, requests = config.speculative_config, config.scheduler_config.max_num_seqs
    options = speculative.options
    tokens = requests * options.beam_width * (options.num_speculative_tokens - 1)
    size = tokens * _token_bytes(speculative.draft_model_config, speculative.draft_parallel_config)
    return f"{size / 2**20:.1f} MiB for the beams of {requests} requests, outside of the KV cache"
