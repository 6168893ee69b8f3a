"""`Settings` holds the settings of a tuning run; a value that is not accepted raises an InputError that names it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vllm_mtad.config.draft_table import find_draft
from vllm_mtad.config.errors import one_sentence
from vllm_mtad.tools.harness.errors import InputError, check_folder_of
from vllm_mtad.tools.harness.methods import DEFAULT, Sampling
from vllm_mtad.tools.tune.candidates import Grid
from vllm_mtad.tools.tune.wishes import WISHES, Wish

OWN_ENGINE_OPTIONS = {
    "model": "--target",
    "speculative_config": "the grid's options",
    "dtype": "--dtype",
    "tokenizer": "the target's tokenizer",
    "logprobs_mode": "raw log-probabilities, of which the likelihood is made",
}
"""Options of vLLM that `--engine` may not hold, and what stands for them."""


@dataclass(frozen=True)
class Settings:
    target: str
    draft: str
    prompts: Path
    chat: bool
    schedule: bool
    wishes: tuple[Wish, ...]
    checker: str | None
    json: Path | None
    concurrency: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    dtype: str
    engine: dict[str, Any]
    grid: Grid
    full_grid: bool
    num_prompts: int
    samples: int
    rounds: int
    together: int

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Settings:
        """
        Raises:
            InputError: naming the option, its value and what is accepted.
        """
        engine = _engine_options(args.engine)
        _fill_in(args, engine.get("max_num_seqs"))
        _check_values(args)
        wishes = tuple(
            Wish(name, 0.05 if args.slowdown is None else args.slowdown, args.any_speed) for name in args.wish
        )
        grid = Grid(_distinct(args.num_speculative_tokens), _distinct(args.beam_widths), _distinct(args.thresholds))
        made: dict[str, Any] = {
            "wishes": tuple(dict.fromkeys(wishes)),
            "concurrency": _distinct(args.concurrency),
            "sampling": Sampling(args.temperature, args.top_k, args.top_p),
            "engine": engine,
            "grid": grid,
            "draft": _draft_of(args.target) if args.draft is None else args.draft,
        }
        settings = cls(**made, **{f.name: getattr(args, f.name) for f in fields(cls) if f.name not in made})
        in_flight = settings.engine.get("max_num_seqs")
        if in_flight is not None and in_flight < max(settings.concurrency):
            raise InputError(
                f"--engine max_num_seqs={in_flight} is less than --concurrency={max(settings.concurrency)}: raise the"
                " one or lower the other."
            )
        return settings


def _fill_in(args: argparse.Namespace, max_num_seqs: Any) -> None:
    """The defaults of options that depend on whether a schedule is asked for."""
    if max_num_seqs is not None and not (isinstance(max_num_seqs, int) and max_num_seqs >= 1):
        raise InputError(f"--engine max_num_seqs={max_num_seqs!r} is not accepted: give an integer >= 1.")
    most = 64 if max_num_seqs is None else max_num_seqs
    levels = [1 << i for i in range(most.bit_length()) if 1 << i <= most]
    single = {"concurrency": levels, "beam_widths": [DEFAULT.beam_width], "thresholds": [DEFAULT.acceptance_threshold]}
    several = {"concurrency": [1], "beam_widths": list(Grid.beam_widths), "thresholds": list(Grid.thresholds)}
    for name, value in (single if args.schedule else several).items():
        given = getattr(args, name)
        if args.schedule and name != "concurrency" and given is not None:
            _accept(name, given, len(given) == 1, "one with --schedule")
        setattr(args, name, value if given is None else given)


def _distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _check_values(args: argparse.Namespace) -> None:
    for option in ("concurrency", "num_speculative_tokens", "beam_widths"):
        for value in getattr(args, option):
            _accept(option, value, value >= 1, "integers >= 1")
    for option, least in (("max_tokens", 1), ("samples", 1), ("rounds", 1), ("together", 1), ("num_prompts", 2)):
        _accept(option, value := getattr(args, option), value >= least, f"an integer >= {least}")
    for value in args.thresholds:
        _accept("thresholds", value, 0 <= value < 1, "numbers in [0, 1)")
    for value in args.wish:
        _accept("wish", value, value in WISHES, ", ".join(WISHES))
    _accept("temperature", args.temperature, 0 <= args.temperature < float("inf"), "a number >= 0")
    _accept("top_k", args.top_k, args.top_k >= -1, "an integer >= 1, or 0 for off")
    _accept("top_p", args.top_p, 0 < args.top_p <= 1, "a number in (0, 1]")
    if args.slowdown is not None:
        _accept("slowdown", args.slowdown, 0 <= args.slowdown < 1, "a number in [0, 1)")
        if "budget" not in args.wish:
            raise InputError(
                f"--slowdown={args.slowdown} is of the wish 'budget': give --wish budget, or leave it out."
            )
    if args.any_speed and "likeliest" not in args.wish:
        raise InputError("--any-speed is of the wish 'likeliest': give --wish likeliest, or leave it out.")
    if args.schedule:
        for option, value, unused in (
            ("wish", args.wish, args.wish == ["fastest"]),
            ("checker", args.checker, args.checker is None),
            ("samples", args.samples, args.samples == 1),
            ("full_grid", args.full_grid, not args.full_grid),
        ):
            _accept(option, value, unused, "it without --schedule, which is about speed alone")
    _check_model("target", args.target)
    if args.draft is not None:
        _check_model("draft", args.draft)
    if args.json is not None:
        check_folder_of("--json", args.json)


def _accept(option: str, value: Any, accepted: bool, what: str) -> None:
    if not accepted:
        raise InputError(f"--{option.replace('_', '-')}={value!r} is not accepted: give {what}.")


def _check_model(option: str, name: str) -> None:
    """A model that is named as a path must be there; anything else is left to the hub."""
    path = Path(name)
    named_as_path = name.startswith(("/", "./", "../", "~")) or name.count("/") > 1
    if (path.exists() or named_as_path) and not (path / "config.json").is_file():
        raise InputError(f"--{option}={name!r} is not a model folder (no config.json in it): give one, or a hub id.")


def _draft_of(target: str) -> str:
    """What the target's config.json or the table of known families names."""
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(target)
        return find_draft(target, config)
    except (OSError, ValueError) as error:
        raise InputError(f"--draft is not given: {one_sentence(error)}") from error


def _engine_options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--engine={text!r} is not JSON ({error.msg}): give an object of vLLM's options.") from error
    if not isinstance(options, dict):
        raise InputError(f"--engine={text!r} is not a JSON object: give an object of vLLM's options.")
    for name in options:
        if name in OWN_ENGINE_OPTIONS:
            raise InputError(f"--engine {name!r} is not accepted: the tuner takes {OWN_ENGINE_OPTIONS[name]}.")
    return options
