"""A vLLM tree that is the installed one with patches applied: links, but for the files that a patch changes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

PATCHES = Path(__file__).parents[2] / "patches"


def fixes(release: str) -> list[Path]:
    return sorted((PATCHES / release).glob("*/fix.diff"))


def build(folder: Path, diffs: list[Path]) -> Path:
    """`folder`/vllm for PYTHONPATH; raises CalledProcessError if a patch does not apply."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    installed, tree = Path(spec.origin).parent, folder / "vllm"
    tree.mkdir()
    changed = {line.split("b/vllm/")[1].strip() for d in diffs for line in d.read_text().splitlines() if line[:3] == "+++"}
    _link(installed, tree, changed)
    outside_any_repository = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    for diff in diffs:
        subprocess.run(["git", "apply", "-p1", str(diff)], cwd=folder, env=outside_any_repository, check=True)
    return folder


def _link(source: Path, destination: Path, changed: set[str]) -> None:
    below = {path.split("/", 1)[0] for path in changed}
    for entry in source.iterdir():
        inner = {path.split("/", 1)[1] for path in changed if path.startswith(entry.name + "/")}
        if entry.name not in below:
            (destination / entry.name).symlink_to(entry)
        elif inner:
            (destination / entry.name).mkdir()
            _link(entry, destination / entry.name, inner)
        else:
            shutil.copy(entry, destination / entry.name)
