"""`docs/models.md` is what the checks say, and the README names the families that the table has."""

import re
from pathlib import Path

import pytest

from benchmarks.models_page.families import DRAFTS, NOTES, draft_of
from benchmarks.models_page.kinds import KINDS, LLAMA, NOT_RUN
from benchmarks.models_page.page import PATH, made_page
from benchmarks.models_page.verdicts import Pair, Verdict, ask
from vllm_mtad.config.draft_table import FAMILIES
from vllm_mtad.config.options import MTADOptions

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_checks_say():
    made, found = made_page(), PATH.read_text()
    assert made == found, "docs/models.md is old: python -m benchmarks.models_page writes it"


def test_the_page_names_no_folder_of_its_making():
    assert "/tmp" not in PATH.read_text()
    assert not re.search(r"'/\w", PATH.read_text())


def test_a_verdict_is_of_the_runner_that_was_asked():
    only_v1 = ask(Pair(LLAMA, LLAMA, {"logprobs_mode": "processed_logits"}))
    assert only_v1.v2 == ()
    assert ["logprobs_mode='processed_logits'" in reason for reason in only_v1.v1] == [True]
    cache = ask(Pair(LLAMA, LLAMA, {"kv_cache_dtype": "fp8"}))
    assert ["kv_cache_dtype='fp8' for the draft" in reason for reason in cache.v2] == [True]


def test_a_verdict_has_every_reason():
    refused = ask(Pair(LLAMA, LLAMA, {"logits_processors": ["some.module:Processor"]}, swaps_words=True))
    assert isinstance(refused, Verdict)
    for reasons in (refused.v2, refused.v1):
        assert len(reasons) == 2
        assert "'DRAFT' has another vocabulary than the target 'TARGET'" in reasons[0]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.draft)
def test_the_default_beams_of_a_known_draft_fit_into_a_gpu(family):
    assert draft_of(family).widest_beams >= MTADOptions().beam_width


def test_what_the_page_knows_of_families_is_of_the_table():
    assert set(NOTES) <= {family.name for family in FAMILIES}
    for name in DRAFTS:
        assert any(family.draft.startswith(name) for family in FAMILIES)


def test_tests_that_the_page_names_are_there():
    for kind in KINDS:
        named = re.findall(r"`([^`]+)`", kind.tested_on)
        assert named or kind.tested_on == NOT_RUN
        for path in named:
            assert (ROOT / path).exists(), path


def test_the_readme_names_the_families():
    readme = (ROOT / "README.md").read_text()
    listed = re.search(r"\[known family\]\(docs/models\.md\) \(([^)]*)\)", readme)
    assert listed, "the README lists the families behind its link to docs/models.md"
    assert sorted(re.split(r",\s+", listed[1])) == sorted({family.name for family in FAMILIES})
