"""What a result says of the machine and the commit that it was made with."""

import subprocess

from vllm_mtad.tools.harness import machine


def test_the_commit_is_the_checkouts_and_says_if_it_was_changed(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    commit = machine.describe_machine("a command", "cpu")["commit"]
    assert len(commit) == 40
    (tmp_path / "new").write_text("")
    assert machine.describe_machine("a command", "cpu")["commit"] == f"{commit}+changes"
    # An installed wheel may lie somewhere within another repository.
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(machine, "ROOT", tmp_path / "site-packages")
    assert machine.describe_machine("a command", "cpu")["commit"] is None
