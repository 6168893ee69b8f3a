"""The wheel is the plugin with its two commands, and it works where nothing else of this repository is."""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
import sysconfig
import tomllib
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

from benchmarks.pairs import FOLDER
from tests.commands import run
from tests.engine.serving import serving

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: setuptools leaves a `build` folder behind."""
    source, out = tmp_path_factory.mktemp("source") / "vllm-mtad", tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "build", "results", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=ignored)
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(out.glob("*.tar.gz"))) == 1
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Python of an environment with the wheel; what it depends on is this environment's."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    done = run(sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", own, wheel)
    assert done.returncode == 0, done.stderr[-3000:]
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_holds_the_plugin_and_no_laboratory(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"vllm_mtad"}
    assert {Path(name).suffix for name in names} == {".py", ".typed"}
    assert "vllm_mtad/py.typed" in names
    assert wheel.stat().st_size < 500_000


def test_what_is_imported_is_declared():
    """Of the core as a dependency, of the tools in their extra; vLLM comes with an extra by its device's name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements):
        return {re.split(r"[<>=]", requirement)[0].replace("-", "_") for requirement in requirements}

    core, tools = names(project["dependencies"]), names(project["optional-dependencies"]["tools"])
    for path in (ROOT / "vllm_mtad").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        packages = {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names)
        allowed = core | {"vllm", "vllm_mtad"} | (tools if "tools" in path.parts else set())
        assert packages <= allowed, path


def test_an_installed_demo_asks_for_a_pair(installed, tmp_path):
    done = run(installed, "-m", "vllm_mtad.tools.cli", "demo", cwd=tmp_path)
    assert done.returncode == 2
    assert "--pair is not given: name a folder" in done.stderr


def test_the_installed_wheel_serves_the_bundled_pair(installed, tmp_path):
    where = run(installed, "-c", "import vllm_mtad; print(vllm_mtad.__file__)", cwd=tmp_path).stdout
    assert str(installed.parents[1]) in where
    pair = shutil.copytree(FOLDER / "minisql", tmp_path / "pair")
    command = [str(installed), "-m", "vllm.entrypoints.cli.main", "serve", str(pair / "target")]
    options = "--speculative-config mtad --max-model-len 256 --max-num-seqs 8 --enforce-eager --block-size 32".split()
    log = tmp_path / "log"
    with serving([*command, *options, "--served-model-name", "sql"], log, cwd=tmp_path) as url:
        asked = json.loads((pair / "prompts.jsonl").read_text().splitlines()[0])
        body = {"model": "sql", "prompt": asked["prompt"], "temperature": 0, "max_tokens": 40}
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        answer = json.loads(urllib.request.urlopen(request).read())["choices"][0]["text"]
    assert answer.upper().lstrip().startswith("SELECT")
    assert "MTAD is on: beam_width=4" in log.read_text()
    assert f"draft {pair / 'draft'}" in log.read_text()
