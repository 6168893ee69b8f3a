"""What the user gives: prompts, checker, options; each error is one sentence that names what it is about."""

import json

import pytest

from benchmarks.pairs import MINISQL
from vllm_mtad.tools.cli import main
from vllm_mtad.tools.harness.checker import load_checker
from vllm_mtad.tools.harness.errors import InputError
from vllm_mtad.tools.harness.prompts import Prompt, read_prompts, tokenized


def file(tmp_path, text, name="prompts.jsonl"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_plain_text_has_a_prompt_a_line(tmp_path):
    path = file(tmp_path, "one \r\n\n  two\u2028still two\n", "prompts.txt")
    assert read_prompts(path) == [Prompt("one ", None, 1), Prompt("  two\u2028still two", None, 3)]


def test_a_byte_order_mark_is_not_of_the_first_prompt(tmp_path):
    path = file(tmp_path, "\ufeffone\ntwo\n", "prompts.txt")
    assert [prompt.text for prompt in read_prompts(path)] == ["one", "two"]


def test_jsonl_has_prompts_and_answers(tmp_path):
    path = file(
        tmp_path, '{"prompt": "a\\nb", "answer": "c", "id": 7}\n{"prompt": "d"}\n\n{"prompt":"e","answer":null}'
    )
    assert read_prompts(path) == [Prompt("a\nb", "c", 1), Prompt("d", None, 2), Prompt("e", None, 4)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ('"text"', "line 2 is not a JSON object"),
        ('{"text": "a"}', "line 2: prompt=None is not accepted"),
        ('{"prompt": " "}', "line 2: prompt=' ' is not accepted"),
        ('{"prompt": "a", "answer": 3}', "line 2: answer=3 is not accepted"),
    ],
)
def test_errors_name_the_line(tmp_path, line, message):
    path = file(tmp_path, '{"prompt": "a"}\n' + line + "\n")
    with pytest.raises(InputError, match=message) as error:
        read_prompts(path)
    assert str(path) in str(error.value)


def test_files_that_hold_no_prompts(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_prompts(tmp_path / "absent.txt")
    with pytest.raises(InputError, match="holds 0 prompts: give at least 2"):
        read_prompts(file(tmp_path, "\n\n"))
    with pytest.raises(InputError, match=r"line 1 looks like JSON.*\.jsonl"):
        read_prompts(file(tmp_path, '{"prompt": "a"}\n', "prompts.txt"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\nb\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_prompts(tmp_path / "latin.txt")


CHECKERS = """
def check(prompt, answer, completion):
    if completion == "boom":
        raise KeyError("missing")
    return completion == answer

def two(prompt, answer):
    return True

def none(prompt, answer, completion):
    pass

number = 3
"""


def test_a_checker_from_a_file(tmp_path):
    checker = load_checker(f"{file(tmp_path, CHECKERS, 'checkers.py')}:check")
    prompt = Prompt("a", "b", 5)
    checker.try_out(prompt)
    assert checker.is_right(prompt, "b")
    assert not checker.is_right(prompt, "c")
    assert not checker.is_right(prompt, "boom")
    assert checker.failures == ["line 5: 'missing'"]
    assert load_checker("tests.tools.tune.test_inputs:file").name == "tests.tools.tune.test_inputs:file"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("check", "give MODULE:FUNCTION or FILE.py:FUNCTION"),
        ("no_such_module:check", "cannot be imported"),
        ("absent.py:check", "cannot be imported"),
        ("FILE:absent", "has no function 'absent'"),
        ("FILE:number", "has no function 'number'"),
        ("FILE:two", "must take"),
    ],
)
def test_checkers_that_cannot_be_loaded(tmp_path, name, message):
    path = file(tmp_path, CHECKERS, "checkers.py")
    with pytest.raises(InputError, match=message):
        load_checker(name.replace("FILE", str(path)))


def test_a_checker_must_say_true_or_false(tmp_path):
    checker = load_checker(f"{file(tmp_path, CHECKERS, 'checkers.py')}:none")
    with pytest.raises(InputError, match="returned None for an empty completion of line 1"):
        checker.try_out(Prompt("a", None, 1))
    checker.check = lambda prompt, answer, completion: completion[0] == "a"
    with pytest.raises(InputError, match="raised IndexError"):
        checker.try_out(Prompt("a", None, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "/no/such/folder"], "--target='/no/such/folder' is not a model folder"),
        (["--draft", "./absent"], "--draft='./absent' is not a model folder"),
        (["--prompts", "absent.txt"], "The prompts of 'absent.txt' cannot be read"),
        (["--wish", "cheapest"], "--wish='cheapest' is not accepted: give fastest, likeliest, budget"),
        (["--slowdown", "0.1"], "--slowdown=0.1 is of the wish 'budget'"),
        (["--wish", "budget", "--slowdown", "1"], "--slowdown=1.0 is not accepted"),
        (["--any-speed"], "--any-speed is of the wish 'likeliest'"),
        (["--thresholds", "0.5", "1"], "--thresholds=1.0 is not accepted: give numbers in [0, 1)"),
        (["--beam-widths", "0"], "--beam-widths=0 is not accepted: give integers >= 1"),
        (["--num-speculative-tokens", "-1"], "--num-speculative-tokens=-1 is not accepted"),
        (["--concurrency", "0"], "--concurrency=0 is not accepted"),
        (["--rounds", "0"], "--rounds=0 is not accepted"),
        (["--num-prompts", "1"], "--num-prompts=1 is not accepted: give an integer >= 2"),
        (["--temperature", "-1"], "--temperature=-1.0 is not accepted"),
        (["--top-p", "0"], "--top-p=0.0 is not accepted"),
        (["--json", "/no/such/folder/a.json"], "--json='/no/such/folder/a.json' is in a folder that is not there"),
        (["--engine", "{"], "--engine='{' is not JSON"),
        (["--engine", "[]"], "--engine='[]' is not a JSON object"),
        (["--engine", '{"model": "a"}'], "--engine 'model' is not accepted: the tuner takes --target"),
        (["--engine", '{"max_model_length": 9}'], "--engine 'max_model_length' is not an option of vLLM's LLM"),
        (["--engine", '{"max_num_seqs": 2}', "--concurrency", "4"], "--engine max_num_seqs=2 is less than"),
        (["--checker", "nothing"], "The checker 'nothing' is not accepted"),
        (["--max-tokens", "2000"], "do not fit in the target's length of 1024"),
        (["--engine", '{"max_model_len": 64}'], "--max-tokens=128 do not fit in the target's length of 64"),
    ],
)
def test_bad_input_is_one_sentence_before_any_engine(tmp_path, capsys, arguments, message):
    path = file(tmp_path, json.dumps({"prompt": "a"}) + "\n" + json.dumps({"prompt": "b"}) + "\n")
    given = ["--target", str(MINISQL.target), "--draft", str(MINISQL.draft), "--prompts", str(path)]
    with pytest.raises(SystemExit) as stopped:
        main(["tune", *given, *arguments])
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vllm-mtad tune: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert lines[0].endswith(".")


def test_a_chat_prompt_is_a_users_message_in_the_targets_template(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MINISQL.target)
    plain = tokenized(tokenizer, ["How many?"], chat=False)
    assert tokenizer.decode(plain[0], skip_special_tokens=True) == "How many?"
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<answer>{% endif %}"
    )
    chat = tokenized(tokenizer, ["How many?"], chat=True)
    assert tokenizer.decode(chat[0], skip_special_tokens=True) == "<user>How many?<answer>"


def test_a_target_without_a_template_cannot_chat(tmp_path, capsys):
    path = file(tmp_path, '{"prompt": "a"}\n{"prompt": "b"}\n')
    with pytest.raises(SystemExit) as stopped:
        main(["tune", "--target", str(MINISQL.target), "--prompts", str(path), "--chat"])
    assert stopped.value.code == 2
    assert "has no chat template" in capsys.readouterr().err


def test_a_target_of_no_known_family_needs_a_draft(tmp_path, capsys):
    target = tmp_path / "someone"
    target.mkdir()
    (target / "config.json").write_text("{}")
    path = file(tmp_path, '{"prompt": "a"}\n{"prompt": "b"}\n')
    with pytest.raises(SystemExit):
        main(["tune", "--target", str(target), "--prompts", str(path)])
    assert "--draft is not given: mtad knows no draft model for the target" in capsys.readouterr().err
