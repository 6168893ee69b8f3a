"""The soak, short, against a server; and that its verdict sees what it is for."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.pairs import FOLDER, MINISQL
from benchmarks.serving import Server
from benchmarks.soak.__main__ import ENGINE, MAX_MODEL_LEN, PROMPTS, soak
from benchmarks.soak.asks import GREEDY, MALFORMED, SAMPLED, Ask, greedy_ask, mixed_asks
from benchmarks.soak.load import Answer
from benchmarks.soak.verdict import Verdict, Vitals
from vllm_mtad.tools.harness.methods import mtad
from vllm_mtad.tools.harness.progress import Work
from vllm_mtad.tools.harness.prompts import read_prompts

REST = Vitals(running=0, waiting=0, kv_cache_usage=0.0, preemptions=3, resident=1000)


def test_a_server_under_mixed_load_loses_nothing(tmp_path):
    """Memory is not judged: so short a run is warm-up."""
    prompts = [prompt.text for prompt in read_prompts(FOLDER / "minisql" / "prompts.jsonl")][:PROMPTS]
    fewer_blocks = ENGINE | {"num_gpu_blocks_override": 8 + 12}  # one request's beams, and little more than a request
    with Server(mtad(), MINISQL, tmp_path, fewer_blocks) as server:
        verdict = soak(server, prompts, 240, seed=3, work=Work())
    assert [failure for failure in verdict.failures if "Memory" not in failure] == []
    assert verdict.figures["lost"] == 0
    assert verdict.figures["preemptions"] > 0
    for name in ("malformed", "aborted", "greedy, compared"):
        assert verdict.figures[name] > 5


def test_every_kind_of_request_is_asked():
    asks = list(mixed_asks(["a", "b"], 3000, "model", MAX_MODEL_LEN, seed=1))
    kinds = Counter(part for ask in asks for part in ask.kind.split(" + "))
    assert set(kinds) == {
        *SAMPLED,
        *MALFORMED,
        GREEDY,
        "aborted",
        "to max_model_len",
        "no JSON",
        "a prompt that is too long",
    }
    assert {ask.streams for ask in asks if ask.status == 200} == {True, False}
    json.dumps([ask.body for ask in asks])


def answered(ask: Ask, *texts: str, **values) -> Answer:
    return Answer(ask, **({"status": ask.status, "texts": list(texts), "finished": ["stop"] * len(texts)} | values))


@pytest.mark.parametrize(
    ("answer", "rest", "said"),
    [
        (answered(greedy_ask("p", "m"), "another text"), REST, "was 'quiet' when all was quiet"),
        (answered(greedy_ask("p", "m"), "quiet", finished=[None]), REST, "was lost"),
        (answered(greedy_ask("p", "m"), error="ReadError", status=0), REST, "was answered with ReadError"),
        (answered(Ask("n", {}, choices=2), "one"), REST, "was lost"),
        (answered(Ask("bad", {}, 400), "text", status=200), REST, "not with HTTP 400"),
        (answered(greedy_ask("p", "m"), "quiet"), replace(REST, running=1), "1 requests still run"),
        (answered(greedy_ask("p", "m"), "quiet"), replace(REST, kv_cache_usage=0.02), "2.0% of the KV cache"),
        (answered(greedy_ask("p", "m"), "quiet"), replace(REST, resident=1100), "Memory grew by 10.0%"),
    ],
)
def test_the_verdict_sees(answer, rest, said):
    (failure,) = Verdict.of([answer], {"p": "quiet"}, REST, rest).failures
    assert said in failure


def test_the_verdict_is_content_with_what_holds():
    answers = [
        answered(greedy_ask("p", "m"), "quiet"),
        answered(Ask("bad", {}, 400)),
        answered(Ask("aborted", {"stream": True}, aborts_after=1), "half", finished=[None], is_aborted=True),
    ]
    verdict = Verdict.of(answers, {"p": "quiet"}, REST, REST)
    assert verdict.failures == []
    assert verdict.figures["requests"] == 3
    assert verdict.figures["malformed"] == verdict.figures["aborted"] == verdict.figures["greedy, compared"] == 1
