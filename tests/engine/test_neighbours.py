"""mtad beside what else vLLM offers: chat, beam search, batches from a file, two engines, two ranks, new weights."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from vllm import SamplingParams
from vllm.sampling_params import BeamSearchParams

from tests.commands import run
from tests.engine.engines import NUM_TOKENS, counters, engine, generate_tokens
from tests.small_pair import random_prompts

GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
PROMPTS = random_prompts([9, 30], seed=11)
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def plain(small_pair):
    with engine(small_pair[0], has_own_process=True) as llm:
        yield llm


@pytest.fixture(scope="module")
def expected(plain):
    return generate_tokens(plain, PROMPTS, GREEDY)


@pytest.fixture(scope="module")
def llm(small_pair, plain):
    """Beside an engine without mtad, of the same process."""
    with engine(*small_pair, has_own_process=True) as llm:
        yield llm


def test_two_engines_in_one_process_do_not_meet(llm, plain, expected):
    assert generate_tokens(llm, PROMPTS, GREEDY) == expected
    assert generate_tokens(plain, PROMPTS, GREEDY) == expected
    configs = [each.llm_engine.vllm_config.speculative_config for each in (llm, plain)]
    assert configs[0].method == "mtad"
    assert configs[1] is None


def test_chat_gives_the_same_answers(llm, plain):
    messages = [{"role": "user", "content": "Hello"}]
    answers = [
        list(each.chat(messages, GREEDY, chat_template=TEMPLATE, use_tqdm=False)[0].outputs[0].token_ids)
        for each in (llm, plain)
    ]
    assert answers[0] == answers[1]


def test_the_beam_search_interface_gives_the_same_beams(llm, plain):
    params = BeamSearchParams(beam_width=2, max_tokens=5, ignore_eos=True)
    given = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    beams = [
        [[beam.tokens for beam in found.sequences] for found in each.beam_search(given, params)]
        for each in (llm, plain)
    ]
    assert beams[0] == beams[1]


def test_weights_can_be_loaded_again(llm, expected):
    llm.collective_rpc("reload_weights")
    assert llm.reset_prefix_cache()
    assert generate_tokens(llm, PROMPTS, GREEDY) == expected


def test_two_ranks_give_the_same_tokens(small_pair, expected):
    with engine(*small_pair, tensor_parallel_size=2, has_own_process=True) as llm:
        assert generate_tokens(llm, PROMPTS, GREEDY) == expected
        assert counters(llm)["spec_decode_num_accepted_tokens"] > 0


def test_batches_from_a_file(small_pair, tmp_path):
    model = shutil.copytree(small_pair[0], tmp_path / "target")
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": str(model), "messages": messages, "max_tokens": 8, "temperature": 0}
    asked = [{"custom_id": str(i), "method": "POST", "url": "/v1/chat/completions", "body": body} for i in range(3)]
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked))
    vllm, speculative = Path(sys.executable).parent / "vllm", json.dumps({"method": "mtad", "model": small_pair[1]})
    files = ["-i", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl"]
    options = ["--model", model, "--max-model-len", 128, "--max-num-seqs", 4, "--enforce-eager", "--dtype", "float32"]
    options += ["--speculative-config", speculative, "--chat-template", tmp_path / "template.jinja"]
    done = run(vllm, "run-batch", *files, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [answer["error"] for answer in answers] == [None] * 3
    assert len({answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers}) == 1
