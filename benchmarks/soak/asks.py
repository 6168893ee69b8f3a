"""`mixed_asks` makes requests of every kind that a server may meet, malformed ones between them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

GREEDY = "greedy"
_JSON_SCHEMA = {"type": "object", "properties": {"town": {"enum": ["a", "b"]}}, "required": ["town"]}


@dataclass(frozen=True)
class Ask:
    """`body`: of a POST to /v1/completions; a text where it is to be no JSON. `status`: what the server must answer.
    `choices`: how many completions. `aborts_after`: chunks of the stream after which the client hangs up.
    """

    kind: str
    body: dict[str, Any] | str
    status: int = 200
    choices: int = 1
    aborts_after: int | None = None

    @property
    def streams(self) -> bool:
        return isinstance(self.body, dict) and bool(self.body.get("stream"))


Make = Callable[[random.Random], dict[str, Any]]
SAMPLED: dict[str, Make] = {
    "temperature": lambda r: {"temperature": r.choice([0.3, 0.7, 1.0, 1.5])},
    "top_k, top_p, min_p": lambda r: {"top_k": r.choice([1, 10, 200]), "top_p": 0.9, "min_p": r.choice([0.0, 0.05])},
    "seed": lambda r: {"seed": r.randrange(2**63)},
    "penalties": lambda r: {"presence_penalty": 0.5, "frequency_penalty": 0.3, "repetition_penalty": 1.1},
    "n": lambda r: {"n": 3},
    "logprobs": lambda r: {"logprobs": r.choice([0, 3])},
    "prompt logprobs": lambda r: {"prompt_logprobs": 2},
    "stop": lambda r: {"stop": [";", " from"], "include_stop_str_in_output": r.random() < 0.5},
    "bad words": lambda r: {"bad_words": ["select"], "min_tokens": 3},
    "ignore_eos": lambda r: {"ignore_eos": True},
    "a regex": lambda r: {"structured_outputs": {"regex": "[a-c]{3,9}"}},
    "a JSON schema": lambda r: {"structured_outputs": {"json": _JSON_SCHEMA}, "max_tokens": 40},
    "without mtad": lambda r: {"vllm_xargs": {"mtad": False}},
    "own threshold": lambda r: {"vllm_xargs": {"mtad_acceptance_threshold": r.choice([0.0, 0.9])}},
    "jointly greedy": lambda r: {"temperature": 0, "vllm_xargs": {"mtad_greedy": "joint"}},
}
MALFORMED: dict[str, tuple[Make, int]] = {
    "temperature below 0": (lambda r: {"temperature": -1}, 400),
    "top_p above 1": (lambda r: {"top_p": 2}, 400),
    "no max_tokens": (lambda r: {"max_tokens": 0}, 400),
    "another model": (lambda r: {"model": "another"}, 404),
    "a regex that is none": (lambda r: {"structured_outputs": {"regex": "("}}, 400),
    "a wrong name of mtad's": (lambda r: {"vllm_xargs": {"mtad_beams": 3}}, 400),
    "a wrong value of mtad's": (lambda r: {"vllm_xargs": {"mtad_acceptance_threshold": 2}}, 400),
    "a text for a number": (lambda r: {"top_k": "many"}, 400),
}


def mixed_asks(prompts: Sequence[str], count: int, model: str, max_model_len: int, seed: int) -> Iterator[Ask]:
    """
    Args:
        prompts: the first half are asked greedily, again and again.
        max_model_len: in tokens; requests to the very end of it are among them.
    """
    generator = random.Random(seed)
    for _ in range(count):
        base = {"model": model, "prompt": generator.choice(prompts), "max_tokens": generator.randint(1, 60)}
        draw = generator.random()
        if draw < 0.1:
            yield _malformed(generator, base, max_model_len)
        elif draw < 0.35:
            yield greedy_ask(generator.choice(prompts[: len(prompts) // 2]), model, generator.random() < 0.3)
        elif draw < 0.4:
            yield Ask("to max_model_len", base | {"max_tokens": None, "ignore_eos": True, "temperature": 1.0})
        elif draw < 0.5:
            aborts_after = generator.randint(0, 6)
            yield Ask("aborted", base | {"stream": True, "ignore_eos": True, "n": 1}, aborts_after=aborts_after)
        else:
            yield _sampled(generator, base)


def greedy_ask(prompt: str, model: str, without_mtad: bool = False) -> Ask:
    """Its answer must be a quiet server's, whatever goes on beside it."""
    body: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": 48, "temperature": 0}
    return Ask(GREEDY, body | ({"vllm_xargs": {"mtad": False}} if without_mtad else {}))


def _sampled(generator: random.Random, base: dict[str, Any]) -> Ask:
    """One to three kinds at once; a grammar goes alone, as what it allows may contradict the others."""
    names = generator.sample(list(SAMPLED), generator.randint(1, 3))
    alone = [name for name in names if "structured_outputs" in SAMPLED[name](generator)]
    names = alone[:1] or names
    body = base | {"temperature": 1.0, "stream": generator.random() < 0.4}
    for name in names:
        body |= SAMPLED[name](generator)
    if "min_tokens" in body:
        body["max_tokens"] = max(body["max_tokens"], body["min_tokens"])
    if body["temperature"] == 0:
        body["n"] = 1  # vLLM takes no more
    if "prompt_logprobs" in body:
        body["stream"] = False  # vLLM gives them whole
    return Ask(" + ".join(sorted(names)), body, choices=body.get("n", 1))


def _malformed(generator: random.Random, base: dict[str, Any], max_model_len: int) -> Ask:
    kind = generator.choice([*MALFORMED, "no JSON", "a prompt that is too long"])
    if kind == "no JSON":
        return Ask(kind, '{"prompt": ', 400)
    if kind == "a prompt that is too long":
        return Ask(kind, base | {"prompt": [5] * (max_model_len + 1)}, 400)
    make, status = MALFORMED[kind]
    return Ask(kind, base | make(generator), status)
