"""The page and its figures from made-up rows."""

import re

import numpy as np
import pytest

from benchmarks.report.ceiling import steps_of, verdict
from benchmarks.report.markdown import write_report
from benchmarks.report.results import Results, difference
from benchmarks.store import Store
from tests.benchmarks.made_up import ABLATION_NAMES, PROMPTS, fill


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    fill(Store(folder))
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return write_report(folder).read_text()


def test_figures_are_those_of_the_rows(folder):
    answers = Results(Store(folder)).answers["minisql"]
    mtad, base = answers["MTAD"], answers["target alone"]
    assert mtad.mean_acceptance_length.value == pytest.approx(5 / 2)
    assert mtad.acceptance_rate == pytest.approx(1.5 / 4)
    assert base.mean_acceptance_length is None
    assert mtad.mean_nll().value() == pytest.approx(0.1 + np.mean(np.arange(PROMPTS)) * 0.001 / 6)
    assert difference(mtad, base, "mean_nll").value == pytest.approx(-0.1)
    assert difference(mtad, base, "accuracy").excludes_zero
    assert mtad.distinct(1) == pytest.approx(PROMPTS / (6 * PROMPTS))


def test_speed_is_beside_the_target_in_the_same_round(folder):
    found = Results(Store(folder)).speedups["minisql", "0.5b", 8]
    assert found["draft_model"].ratio == pytest.approx(2.0)
    assert found["MTAD"].low == pytest.approx(0.8)
    assert found["MTAD"].rounds == 3


def test_the_ceiling_leaves_the_forward_passes_only(folder):
    found = verdict(steps_of(Results(Store(folder)), "minisql"))
    assert found["allowed"] == pytest.approx(1.0)
    assert found["reached"] == pytest.approx(16 / 15)
    assert found["over_target"] == pytest.approx(2.5 / 15 * 10)


def test_every_question_has_its_section(page):
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert headings[0] == "In short"
    assert headings[-1] == "Not run"
    for number in range(1, 8):
        assert any(heading.startswith(f"{number}. ") for heading in headings), number


def test_it_says_where_mtad_loses(page):
    assert "**Where MTAD loses**" in page
    assert re.search(r"8 \(0\.80× the target alone, `draft_model` 2\.00×\)", page)


def test_differences_outside_noise_are_bold_and_others_are_not(page):
    rows = [line for line in page.splitlines() if line.startswith("| draft_model |")]
    assert rows
    assert "**-0.1" in next(line for line in page.splitlines() if line.startswith("| MTAD |") and "**" in line)
    assert not any("**+0.000" in row for row in rows)


def test_all_four_cells_of_the_ablation_are_there(page):
    for name in ABLATION_NAMES:
        assert f"| {name} |" in page


def test_what_was_not_run_is_listed(page):
    not_run = page.split("## Not run")[1]
    for name in ("FLy", "energy", "GSM8K", "HumanEval", "Spider", "MT-Bench"):
        assert name in not_run


def test_its_plots_are_pictures(folder, page):
    names = re.findall(r"\]\((plots/[^)]+)\)", page)
    assert {name.split("/")[1].split("-")[0] for name in names} >= {"threshold", "concurrency", "pareto", "draft"}
    for name in names:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"no manifest\.json"):
        write_report(tmp_path)
