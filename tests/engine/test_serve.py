"""`vllm serve` with the bare shorthand on the bundled pair, asked by the openai client."""

from __future__ import annotations

import json
import re
import shutil
import sys
import urllib.request
from pathlib import Path

import openai
import pytest

from benchmarks.pairs import MINISQL
from benchmarks.pairs.minisql.task import evaluation_examples, is_correct
from tests.engine.engines import ON_V2
from tests.engine.serving import serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The base URL of a server that was started as the README shows."""
    vllm = shutil.which("vllm", path=str(Path(sys.executable).parent))
    assert vllm is not None, "the vllm command is not installed beside this Python"
    options = "--max-model-len 256 --max-num-seqs 8 --enforce-eager --block-size 32 --served-model-name sql".split()
    if ON_V2:
        options += ["--dtype", "float32"]  # in bfloat16 some CPUs pack the KV cache, which beams on V2 cannot read
    command = [vllm, "serve", str(MINISQL.target), "--speculative-config", "mtad", *options]
    with serving(command, tmp_path_factory.mktemp("serve") / "log") as url:
        yield url


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server}/v1", api_key="none")


@pytest.fixture(scope="module")
def examples():
    return evaluation_examples("held_out", 12)


def test_answers_greedily_and_right(client, examples):
    answers = client.completions.create(model="sql", prompt=[e.prompt for e in examples], temperature=0, max_tokens=72)
    texts = [choice.text for choice in answers.choices]
    assert sum(is_correct(e, t) for e, t in zip(examples, texts)) > len(examples) / 2
    assert {choice.finish_reason for choice in answers.choices} == {"stop"}


def test_streams_the_same_text_in_pieces(client, examples):
    given = {"model": "sql", "prompt": examples[0].prompt, "temperature": 0.8, "seed": 11, "max_tokens": 72}
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**given, stream=True)]
    assert len(pieces) > 2
    assert "".join(pieces) == client.completions.create(**given).choices[0].text


def test_min_p_passes_and_logit_bias_is_refused_on_v1(client, examples):
    given = {"model": "sql", "prompt": examples[0].prompt, "max_tokens": 8}
    assert client.completions.create(**given, extra_body={"min_p": 0.1}).choices[0].text
    if ON_V2:
        assert client.completions.create(**given, logit_bias={"5": 1}).choices[0].text
        return
    with pytest.raises(openai.BadRequestError, match="logit_bias"):
        client.completions.create(**given, logit_bias={"5": 1})


def test_structured_output_holds(client, examples):
    answer = client.completions.create(
        model="sql",
        prompt=examples[0].prompt,
        max_tokens=40,
        extra_body={"structured_outputs": {"regex": " SELECT [a-z_]{3,12} FROM [a-z]{3,9};"}},
    )
    assert re.fullmatch(r" SELECT [a-z_]{3,12} FROM [a-z]{3,9};", answer.choices[0].text)


def test_metrics_show_the_speculative_counters(server, client, examples):
    client.completions.create(model="sql", prompt=examples[1].prompt, max_tokens=40, temperature=1.0)
    text = urllib.request.urlopen(f"{server}/metrics", timeout=10).read().decode()
    for name in ("num_drafts", "num_draft_tokens", "num_accepted_tokens"):
        value = re.search(rf"^vllm:spec_decode_{name}_total\{{.*\}} ([0-9.e+]+)$", text, re.MULTILINE)
        assert value, name
        assert float(value[1]) > 0
    assert "vllm:mtad_call_tokens_bucket" in text
    assert re.search(r'^vllm:mtad_steps_total\{.*draft_tokens="4".*\} [1-9]', text, re.MULTILINE)


def test_every_query_of_the_dashboard_finds_its_series(server, client, examples):
    """By name, and with the labels that it groups by."""
    client.completions.create(model="sql", prompt=examples[1].prompt, max_tokens=40, temperature=1.0)
    text = urllib.request.urlopen(f"{server}/metrics", timeout=10).read().decode()
    dashboard = json.loads(Path("docs/grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) >= len(dashboard["panels"])
    for query in queries:
        for by, series in re.findall(r"by \((\w+)\) \((?:rate\()?(vllm:\w+)", query):
            assert re.search(rf"^{series}\{{.*{by}=", text, re.MULTILINE), (by, series)
        for series in re.findall(r"vllm:\w+", query):
            assert re.search(rf"^{series}\{{.*model_name=", text, re.MULTILINE), series


def test_a_request_says_what_it_wants_of_mtad(client, examples):
    given = {"model": "sql", "prompt": examples[0].prompt, "max_tokens": 16, "temperature": 0}
    texts = {
        client.completions.create(**given, extra_body={"vllm_xargs": xargs}).choices[0].text
        for xargs in ({"mtad": False}, {"mtad": "false"}, {"mtad_acceptance_threshold": 0.9}, {})
    }
    assert len(texts) == 1
    for xargs, sentence in (
        ({"mtad_acceptance_threshold": 2}, r"give a number in \[0, 1\)"),
        ({"mtad_beams": 3}, "give some of mtad, mtad_acceptance_threshold"),
    ):
        with pytest.raises(openai.BadRequestError, match=sentence) as error:
            client.completions.create(**given, extra_body={"vllm_xargs": xargs})
        assert error.value.status_code == 400
