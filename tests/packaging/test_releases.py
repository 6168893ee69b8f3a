"""The releases of vLLM are the same wherever they are named."""

import re
import tomllib
from pathlib import Path

from vllm_mtad.releases import TESTED

ROOT = Path(__file__).parents[2]


def test_every_place_names_the_releases_that_were_tested():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["cuda"] == [f"vllm>={TESTED[0]},<={TESTED[-1]}"]
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    minors = [release.rpartition(".")[0] for release in TESTED]
    assert f"for vLLM {' and '.join(minors)}." in readme
    assert f"brings vLLM {TESTED[-1]}" in readme
    assert f"as in {' and '.join(TESTED)}, with which it was tested" in readme
    assert f"for vLLM {' and '.join(minors)}:" in (ROOT / "CHANGELOG.md").read_text()
    support = (ROOT / "docs" / "support.md").read_text()
    assert f"\nvLLM {TESTED[0]}, Linux" in support
    assert [line for line in support.splitlines() if line.startswith("## vLLM ")] == [f"## vLLM {TESTED[-1]}"]
    assert re.search(r"^NEXT_RELEASE := (.*)$", makefile, re.MULTILINE)[1] == TESTED[-1]
    assert tuple(sorted(path.name for path in (ROOT / "patches").iterdir() if path.is_dir())) == TESTED
