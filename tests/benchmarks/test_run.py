"""The suite once, small, on real engines; interrupted and taken up again."""

import json

import pytest

from benchmarks.__main__ import main, parse_arguments, plan_of
from benchmarks.catalogue import BEAM_WIDTHS, DRAFT_LENGTHS, GROUPS, THRESHOLDS, methods_of
from benchmarks.pairs import BUNDLED
from benchmarks.plan import PRESETS, Models, Plan, Quality, Speed
from benchmarks.reference import calls_of
from benchmarks.report.markdown import write_report
from benchmarks.run import run_plan
from benchmarks.speed import sized, turns
from benchmarks.store import Store
from benchmarks.workload import load_workload
from tests.engine.engines import in_this_process
from vllm_mtad.algorithm.reference import ReferenceOutput
from vllm_mtad.tools.harness.engines import quiet_vllm
from vllm_mtad.tools.harness.methods import mtad, target_alone

SMALL = Plan(
    "quick",
    quality=(Quality("minisql", 6, ("main",), num_reference=2),),
    speed=(Speed("minisql", ("main",), (1, 2), rounds=1, least_prompts=2),),
    steps=(Speed("minisql", ("main",), (1,), rounds=1, least_prompts=2),),
    vocabulary=False,
)
IN_THIS_PROCESS, IN_THEIR_OWN = ("quality", "energy", "speed"), ("steps",)
"""Of the parts. The engines of `steps` hand their times over from their processes, which is to work too."""
NAMES = ["target alone", "draft_model", "MTAD"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    quiet_vllm()
    folder = tmp_path_factory.mktemp("run")
    with in_this_process():
        run_plan(SMALL, folder, IN_THIS_PROCESS)
    run_plan(SMALL, folder, IN_THEIR_OWN)
    return Store(folder)


def test_every_method_answers_the_same_prompts(store):
    rows = store.rows("answers")
    assert [row["method"] for row in rows] == NAMES
    for row in rows:
        assert len(row["answers"]) == 6
        for answer in row["answers"]:
            assert sum(answer["calls"]) == len(answer["tokens"]) > 0
            assert answer["correct"] in (True, False)


def test_every_answer_has_its_nats(store):
    for row in store.rows("likelihoods"):
        assert len(row["nats"]) == 6
        assert all(n > 0 for n in row["nats"])


def test_the_slow_reference_answers_some_of_them(store):
    (row,) = store.rows("reference")
    assert len(row["calls"]) == 2
    assert all(calls[0] == 1 and max(calls) <= 5 for calls in row["calls"])


def test_what_follows_the_stop_is_in_no_call():
    assert calls_of(ReferenceOutput([7, 8, 9, 10, 11, 2], accepted=[3, 4])) == [1, 4, 1]


def test_each_round_is_timed_beside_the_target_alone(store):
    rows = store.rows("speed")
    assert {(row["method"], row["concurrency"]) for row in rows} == {(n, c) for n in NAMES for c in (1, 2)}
    assert len({row["turn"] for row in rows}) == 1
    assert all(row["tokens_per_second"] > 0 for row in rows)


def test_a_steps_parts_are_no_more_than_the_whole(store):
    for row in store.rows("steps"):
        parts = row["parts_ms"]
        assert 0 < parts["target forward"] < parts["target"] < row["step_ms"]
        if row["method"] != "target alone":
            assert 0 < parts["draft forward"] < parts["drafting"] < row["step_ms"]


def test_without_a_gpu_energy_is_not_available_and_says_so(store):
    (row,) = store.rows("energy")
    assert row["unavailable"]


def test_it_says_what_cannot_run_here(store):
    reasons = {row["method"]: row["reason"] for row in store.rows("unavailable")}
    assert "0.33" in reasons["FLy"]
    assert "draft_model block verification" in reasons


def test_interrupted_it_does_only_what_is_missing(store):
    file = store.folder / "answers.jsonl"
    whole = file.read_text().splitlines()
    file.write_text("\n".join(whole[:2]) + "\n" + whole[2][:100])
    timed = store.rows("speed")
    with in_this_process():
        run_plan(SMALL, store.folder, IN_THIS_PROCESS + IN_THEIR_OWN)
    assert [row["method"] for row in store.rows("answers")] == NAMES
    assert store.rows("answers")[2]["answers"][0].keys() == json.loads(whole[2])["answers"][0].keys()
    assert store.rows("speed") == timed
    assert "MTAD" in write_report(store.folder).read_text()


def test_sweeps_change_one_factor_around_the_default():
    assert len(GROUPS["threshold"]) == 1 + len(THRESHOLDS)
    for group in ("threshold", "beam_width", "draft_length", "drafting", "ablation"):
        assert mtad() in GROUPS[group], group
    default = dict(mtad().speculative)
    for group in ("threshold", "beam_width", "drafting"):
        for method in GROUPS[group][1:]:
            assert sum(dict(method.speculative)[name] != value for name, value in default.items()) <= 1
    assert len(GROUPS["cross"]) == 1 + len(THRESHOLDS) * len(BEAM_WIDTHS) * len(DRAFT_LENGTHS)


def test_the_target_alone_leads_every_turn():
    groups = turns(methods_of(("methods", "threshold")), 4)
    assert all(group[0] == target_alone() and len(group) <= 4 for group in groups)
    others = [method for group in groups for method in group[1:]]
    assert set(others) == set(methods_of(("methods", "threshold"))) - {target_alone()}
    assert len(others) == len(set(others))


def test_every_set_has_padded_models_of_its_own(tmp_path):
    for name in ("minisql", "tales"):
        workload = load_workload(Models(), Quality(name, 1, ()))
        pair = sized(workload, "50m", tmp_path)
        assert (pair.target / "tokenizer.json").read_bytes() == (BUNDLED[name].target / "tokenizer.json").read_bytes()


def test_code_is_continued_and_not_chatted_about():
    with pytest.raises(ValueError, match="humaneval cannot be asked with --chat"):
        load_workload(Models("T", "D"), Quality("humaneval", 1, (), chat=True))


def test_a_users_own_models_replace_the_bundled_ones():
    command = ["run", "--preset", "gpu", "--out", "x", "--target", "T", "--draft", "D", "--prompt-set", "humaneval"]
    plan = plan_of(parse_arguments([*command, "--execute-generated-code", "--engine", '{"dtype": "float16"}']))
    assert plan.models.target == "T"
    assert plan.engine == {"dtype": "float16"}
    assert [quality.prompt_set for quality in plan.quality] == ["humaneval"]
    assert dict(plan.quality[0].options) == {"allow_execution": True}
    for timed in (*plan.speed, *plan.energy):
        assert timed.prompt_set == "humaneval"
        assert timed.size is None


def test_presets_name_groups_that_exist():
    for plan in PRESETS.values():
        for part in (*plan.quality, *plan.speed, *plan.steps, *plan.energy):
            assert set(part.groups) <= set(GROUPS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--out", "x", "--target", "T"], "--target and --draft go together"),
        (["run", "--out", "x", "--parts", "quality,sped"], "--parts sped: choose from"),
        (["report", "nowhere"], "holds no manifest.json"),
    ],
)
def test_mistakes_are_named(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert said in f"{stopped.value}{capsys.readouterr().err}"
