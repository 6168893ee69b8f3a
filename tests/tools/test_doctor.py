"""`vllm-mtad doctor`: what it says of a pair and of flags, without any weights."""

import shutil

import pytest

from benchmarks.pairs import MINISQL, TALES
from vllm_mtad.plugin import seams
from vllm_mtad.tools.cli import main


@pytest.fixture(scope="module")
def weightless(tmp_path_factory):
    """The bundled pair without its weights."""
    folder = tmp_path_factory.mktemp("weightless")
    for model in (MINISQL.target, MINISQL.draft):
        shutil.copytree(model, folder / model.name, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.fixture(autouse=True)
def _quiet_in_here_only(monkeypatch):
    """As the command does for its process and engines, where it would stay."""
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")


def doctor(capsys, *arguments, load_format="dummy") -> tuple[int, str]:
    """Exit status and what is printed."""
    with pytest.raises(SystemExit) as end:
        main(["doctor", *map(str, arguments), "--load-format", load_format])
    printed = capsys.readouterr()
    return end.value.code, printed.out + printed.err


def test_a_pair_that_goes_together(capsys, weightless):
    status, said = doctor(capsys, weightless / "target", "--max-num-seqs", 8, "--max-model-len", 256)
    assert status == 0
    facts = dict(line.split("  ", 1) for line in said[said.index("versions") :].split("\n\n")[0].splitlines())
    assert "stand" in facts["seams"]
    assert facts["known draft"].strip() == str(weightless / "draft")
    assert "a vocabulary of 1024" in facts["draft"]
    assert "40 with max_num_seqs=8" in facts["rows"]
    assert "64 KV blocks of 32 tokens (8.5 MiB)" in facts["scratch"]  # 8 x 4 beams x 2 blocks
    assert "Nothing speaks against" in said


def test_every_reason_is_named_at_once(capsys, weightless):
    flags = [
        "--logprobs-mode",
        "processed_logits",
        "--logits-processors",
        "some.module:Processor",
        "--speculative-config",
        '{"method": "mtad", "beam_width": 3000}',
    ]
    status, said = doctor(capsys, weightless / "target", TALES.draft, *flags)
    assert status == 1
    reasons = [line for line in said.splitlines() if line.startswith("- ")]
    for named in ("has another vocabulary", "processed_logits", "logits_processors cannot", "beam_width=3000"):
        assert sum(named in reason for reason in reasons) == 1
    assert len(reasons) == 4


def test_weights_that_are_not_there_are_a_reason(capsys, weightless):
    status, said = doctor(capsys, weightless / "target", load_format="auto")
    assert status == 1
    assert f"speculative_config.model='{weightless / 'draft'}' has no weights" in said


def test_a_target_without_a_known_draft(capsys, weightless, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(weightless / "target", alone)
    config = (alone / "config.json").read_text().replace('"mtad_draft"', '"another_field"')
    (alone / "config.json").write_text(config)
    status, said = doctor(capsys, alone)
    assert status == 1
    assert f"- mtad knows no draft model for the target '{alone}'" in said
    assert doctor(capsys, alone, weightless / "draft")[0] == 0
    assert doctor(capsys, alone, "--spec-model", weightless / "draft")[0] == 0


def test_a_seam_that_does_not_stand(capsys, weightless, monkeypatch):
    monkeypatch.setattr(seams, "why_missing", lambda seam: "broken" if seam.name == "NgramGPUTypes" else None)
    status, said = doctor(capsys, weightless / "target")
    assert status == 1
    assert "1 of" in said
    assert "vllm.config.vllm.NgramGPUTypes (broken)" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--nonsense"], "Unrecognized arguments: --nonsense"),
        (["--max-num-seqs", "many"], "invalid int value: 'many'"),
        (["--speculative-config", '{"method": "ngram"}'], "asks for the method 'ngram'"),
        (["--spec-method", "ngram"], "asks for the method 'ngram'"),
        (["--enforce-eager", "a third model"], "'a third model' stands behind flags"),
    ],
)
def test_flags_that_are_no_flags_of_a_server_with_mtad(capsys, weightless, flags, said):
    status, printed = doctor(capsys, weightless / "target", *flags)
    assert status == 2
    assert said in printed
    assert "Traceback" not in printed
