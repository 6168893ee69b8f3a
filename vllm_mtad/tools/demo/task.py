"""`read_task` reads what the demo does with a pair: its folder's models, prompts, judge and `demo.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from vllm_mtad.tools.harness.checker import Checker, load_checker
from vllm_mtad.tools.harness.errors import InputError
from vllm_mtad.tools.harness.methods import DEFAULT, Method, draft_model, mtad, target_alone
from vllm_mtad.tools.harness.pair import Pair
from vllm_mtad.tools.harness.prompts import Prompt, read_prompts

IN_CHECKOUT = tuple(Path("benchmarks/pairs") / task for task in ("minisql", "tales"))
"""The bundled pairs, seen from the repository's root."""


@dataclass(frozen=True)
class Asked:
    """The fields of `demo.json`, each of which may be left out.

    `title`: of the table, behind the number of prompts. `num_candidates`: MTAD runs once with each. `num_prompts`: of
    the answers that are judged, which are decoded with the largest of `in_flight`. `in_flight`, `rounds`: what is
    timed, in rounds in which the ways take turns.
    """

    title: str = "prompts"
    max_tokens: int = 128
    num_prompts: int = 100
    num_candidates: tuple[int, ...] = (1,)
    in_flight: tuple[int, ...] = (1, 8)
    rounds: int = 3

    def prompts_in_round(self, in_flight: int) -> int:
        """Prompts of a round: more with more in flight, so that the last ones, with fewer beside them, weigh little."""
        return min(self.num_prompts, 16 if in_flight == 1 else 6 * in_flight)


@dataclass(frozen=True)
class DemoTask:
    pair: Pair
    asked: Asked
    prompts: list[Prompt]
    checker: Checker | None

    @property
    def methods(self) -> list[Method]:
        """The target alone, which the others are held against, comes first."""
        candidates = [mtad(replace(DEFAULT, num_candidates=n)) for n in self.asked.num_candidates]
        return [target_alone(), draft_model(), *candidates]


def bundled_folders() -> tuple[Path, ...]:
    """
    Raises:
        InputError: if this is not the repository's root.
    """
    if all(folder.is_dir() for folder in IN_CHECKOUT):
        return IN_CHECKOUT
    raise InputError(
        "--pair is not given: name a folder with `target`, `draft` and `prompts.jsonl`, such as"
        " benchmarks/pairs/minisql in vllm-mtad's repository."
    )


def read_task(folder: Path, num_prompts: int | None = None) -> DemoTask:
    """
    Args:
        num_prompts: at most so many, instead of what `demo.json` says.
    Raises:
        InputError: naming what is missing or cannot be used.
    """
    for model in ("target", "draft"):
        if not (folder / model / "config.json").is_file():
            raise InputError(
                f"--pair={str(folder)!r} has no model folder {model!r}: give one with `target` and `draft`."
            )
    asked = _read_asked(folder / "demo.json")
    if num_prompts is not None:
        if num_prompts < 2:
            raise InputError(f"--num-prompts={num_prompts} is not accepted: give an integer >= 2.")
        asked = replace(asked, num_prompts=min(asked.num_prompts, num_prompts))
    prompts, judge = read_prompts(folder / "prompts.jsonl")[: asked.num_prompts], folder / "check.py"
    checker = load_checker(f"{judge}:check") if judge.exists() else None
    if checker is not None:
        checker.try_out(prompts[0])
    return DemoTask(Pair(folder / "target", folder / "draft"), asked, prompts, checker)


def _read_asked(path: Path) -> Asked:
    if not path.exists():
        return Asked()
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON ({error.msg}).") from error
    known = [f.name for f in fields(Asked)]
    for name, value in values.items():
        if name not in known:
            raise InputError(f"{path}: {name!r} is not accepted: give some of {', '.join(known)}.")
        default, least = getattr(Asked(), name), 2 if name == "num_prompts" else 1
        if not _is_like(default, value, least):
            kind = {str: "a text", int: f"an integer >= {least}", tuple: "a list of integers >= 1"}[type(default)]
            raise InputError(f"{path}: {name}={value!r} is not accepted: give {kind}.")
    given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    asked = Asked(**given)
    if max(asked.num_candidates) > DEFAULT.beam_width:
        raise InputError(
            f"{path}: num_candidates={values['num_candidates']} is not accepted: give at most {DEFAULT.beam_width}."
        )
    return asked


def _is_like(default: Any, value: Any, least: int) -> bool:
    """Whether a field may have `value` where its default is `default`."""
    if isinstance(default, str):
        return isinstance(value, str)
    if isinstance(default, tuple):
        return isinstance(value, list) and bool(value) and all(_is_like(0, one, least) for one in value)
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
