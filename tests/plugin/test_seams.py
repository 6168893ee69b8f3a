"""What stands where a seam is applied; where one is not, mtad is refused by name and nothing else changes."""

import functools
import importlib
import inspect
import os
import sys
from types import FunctionType, SimpleNamespace
from typing import get_args

import pytest

from tests.commands import run
from tests.config.asking import create, refusal
from vllm_mtad.plugin import seams
from vllm_mtad.plugin.availability import check_available
from vllm_mtad.plugin.contracts import find
from vllm_mtad.plugin.seams import INSTANCE_SEAMS, SEAMS, apply_seam

WANTED = [seam for seam in SEAMS if seams.has_place(seam)]
"""All but those whose names this release does not have."""


def test_only_what_may_be_absent_is_left_out():
    assert [seam.name for seam in SEAMS if seam not in WANTED and not seam.may_be_absent] == []


@pytest.mark.parametrize("seam", WANTED, ids=lambda seam: seam.name)
def test_seam_is_in_place_once_and_says_why(seam):
    replaced = find(seam.module, seam.name)
    assert replaced.__mtad_seam__ == seam.name
    apply_seam(seam, importlib.import_module(seam.module))
    assert find(seam.module, seam.name) is replaced, "a seam must not be applied twice"
    assert seam.why
    assert seam.remove_when


def broken(seam, monkeypatch):
    """As if the seam had not been applied."""
    holder, attribute = seams._place(seam, importlib.import_module(seam.module))
    if attribute == "__new__":
        monkeypatch.setattr(holder, attribute, staticmethod(lambda cls, *args, **kwargs: object.__new__(cls)))
    elif attribute == "NgramGPUTypes":
        monkeypatch.setattr(holder, attribute, get_args(holder.NgramGPUTypes)[0])
    else:
        original = inspect.unwrap(getattr(holder, attribute))
        monkeypatch.setattr(holder, attribute, staticmethod(original) if seam.is_static else original)


@pytest.mark.parametrize("seam", WANTED, ids=lambda seam: seam.name)
def test_with_any_seam_missing_mtad_is_refused_by_name(small_pair, monkeypatch, request, seam):
    """Other methods go on; a seam of the other model runner is not missed."""
    own, other = {"v1": ("v1", "v2"), "v2": ("v2", "v1")}.get(seam.runner, (None, None))
    if own == "v2":
        request.getfixturevalue("with_triton")
    broken(seam, monkeypatch)
    vanilla = {"method": "draft_model", "model": small_pair[1], "num_speculative_tokens": 2}
    create(small_pair[0], vanilla)
    given = {"method": "mtad", "model": small_pair[1]}
    assert f"vllm-mtad could not patch {seam.module}.{seam.name}" in refusal(small_pair[0], given)
    check_available(other) if other else None


def test_what_another_plugin_has_replaced_first_is_left_to_it_and_named():
    def of_another(self):
        return "another's"

    def of_vllm(self):
        return "vLLM's"

    of_vllm = FunctionType(of_vllm.__code__, {"__name__": "vllm.some.module"})

    @functools.wraps(of_vllm)
    def around_it(self):
        return of_vllm(self)

    wrapped = SimpleNamespace(Runner=type("Runner", (), {"step": around_it}))
    on_top = seams.Seam("some.module", "Runner.step", lambda original: lambda self: original(self), "a test", "never")
    apply_seam(on_top, wrapped)
    assert wrapped.Runner.step is not around_it
    assert wrapped.Runner().step() == "vLLM's"
    module = SimpleNamespace(Runner=type("Runner", (), {"step": of_another}))
    seam = seams.Seam("some.module", "Runner.step", lambda original: original, why="a test", remove_when="never")
    apply_seam(seam, module)
    assert module.Runner.step is of_another
    assert seams._failures.pop("Runner.step") == f"{__name__} has replaced it before"


@pytest.mark.parametrize("seam", INSTANCE_SEAMS, ids=lambda seam: seam.name)
def test_what_is_replaced_on_instances_is_there_and_says_why(seam):
    module, _, name = seam.owner.rpartition(".")
    original = getattr(find(module, name), seam.name)
    replacements = {
        "build": ("v1.tree_verification", "TreeVerification._build"),
        "do_kv_cache_update": ("v1.tree_verification", "TreeVerification._write"),
        "forward": ("v2.attention_stand_in", "AttentionStandIn.forward"),
    }
    source = inspect.getsource(importlib.import_module(seam.replaced_in))
    assert f".{seam.name} = " in source
    assert seam.why
    assert seam.remove_when
    if seam.name in replacements:
        own = find(f"vllm_mtad.runners.{replacements[seam.name][0]}", replacements[seam.name][1])
        theirs = [name for name in inspect.signature(original).parameters if name != "self"]
        ours = [name for name in inspect.signature(own).parameters if name not in ("self", "build", "update")]
        named = [name for name in ours if name not in ("args", "kwargs", "kw")]
        assert named == theirs[: len(named)]


def test_async_scheduling_lists_mtad_beside_vllms_own_methods():
    from typing import get_args

    from vllm.config import speculative, vllm

    assert get_args(vllm.NgramGPUTypes) == (*get_args(speculative.NgramGPUTypes), "mtad")


@pytest.mark.parametrize(
    ("on_v2", "refused"), [(False, ["logit_bias", "logprob_token_ids"]), (True, ["logprob_token_ids"])]
)
def test_sampling_parameters_that_are_refused_with_mtad_only(on_v2, refused):
    from types import SimpleNamespace

    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    config = SimpleNamespace(method="mtad", accepts_logit_bias=on_v2)
    params = SamplingParams(min_p=0.1)
    params._validate_spec_decode(config)
    with pytest.raises(VLLMValidationError, match="min_p"):
        params._validate_spec_decode(SimpleNamespace(method="draft_model"))
    for name, value in (("logit_bias", {5: 1.0}), ("logprob_token_ids", [5])):
        params = SamplingParams()
        setattr(params, name, value)
        if name not in refused:
            params._validate_spec_decode(config)
            continue
        with pytest.raises(VLLMValidationError, match=name):
            params._validate_spec_decode(config)


def run_python(code: str) -> str:
    """Output of `code` in a fresh interpreter, so that its imports and patches are its own."""
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


def test_left_out_of_vllm_plugins_it_patches_nothing():
    script = (
        "from vllm.plugins import load_general_plugins; load_general_plugins()\n"
        "import importlib\n"
        "from vllm_mtad.plugin.seams import SEAMS, why_missing\n"
        "own = [seam for seam in SEAMS if seam.runner != 'v2' and not seam.may_be_absent]\n"
        "standing = [seam.name for seam in own if why_missing(seam) is None]\n"
        "print('STANDING', standing)\n"
    )
    for plugins, expected in (
        ("another", []),
        ("mtad", [s.name for s in SEAMS if s.runner != "v2" and not s.may_be_absent]),
    ):
        done = run(sys.executable, "-c", script, env=os.environ | {"VLLM_PLUGINS": plugins})
        assert f"STANDING {expected}" in done.stdout, done.stderr[-2000:]


def test_registering_imports_no_engine_and_no_worker():
    code = (
        "import sys, vllm; from vllm.plugins import load_general_plugins; load_general_plugins()\n"
        "print([m for m in sys.modules if m.startswith(('vllm.v1.engine.core', 'vllm.v1.worker.gpu_model_runner',"
        " 'vllm.v1.worker.gpu.', 'vllm_mtad.runners', 'vllm_mtad.tools', 'vllm_mtad.algorithm.beams', 'benchmarks'))])"
    )
    assert run_python(code) == "[]"


def on_another_vllm(small_pair, changed: str, *asked: str) -> str:
    """What a vLLM that was not tested, and in which something has `changed`, says to each configuration."""
    code = (
        "import vllm.plugins; vllm.plugins.plugins_loaded = True\n"  # as if only this registration ran
        "import vllm; vllm.__version__ = '0.99.0'\n"
        "from vllm_mtad.plugin.registration import register; register()\n"
        "from vllm.engine.arg_utils import EngineArgs\n"
        f"{changed}\n"
        f"for asked in [{', '.join(asked)}]:\n"
        "    try:\n"
        f"        config = EngineArgs({small_pair[0]!r}, speculative_config=asked).create_engine_config()\n"
        "        print('MADE', type(config.speculative_config).__name__)\n"
        "    except ValueError as error:\n"
        "        print('REFUSED', error)\n"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("method", ["mtad", "draft_model"])
def test_a_vllm_that_was_not_tested_runs_mtad_with_a_warning_if_all_is_as_it_was(small_pair, method):
    asked = f"dict(method={method!r}, model={small_pair[1]!r}, num_speculative_tokens=2)"
    said = on_another_vllm(small_pair, "", asked)
    if method == "draft_model":
        assert "MADE SpeculativeConfig" in said
        assert "mtad" not in said.lower()
        return
    assert "MADE MTADSpeculativeConfig" in said
    assert said.count("mtad was tested with vLLM 0.32.0, 0.33.0, and this is 0.99.0.") == 1


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (
            "import vllm.v1.core.kv_cache_utils as m; m.update_kv_cache_capacity = m.get_kv_cache_capacity",
            "vllm.v1.core.kv_cache_utils.update_kv_cache_capacity has no longer the line",
        ),
        (
            "from vllm.v1.spec_decode.draft_model import DraftModelProposer as C\n"
            "C.initialize_attn_backend = lambda self, config: None",
            "MTADProposer.initialize_attn_backend does not fit what it overrides (vLLM's takes (self, config), ours",
        ),
        (
            "import vllm.v1.spec_decode.llm_base_proposer, vllm.v1.spec_decode.utils as m\n"
            "del m.compute_new_slot_mapping",
            "own modules cannot be imported beside it (cannot import name 'compute_new_slot_mapping'",
        ),
    ],
)
def test_one_that_has_changed_refuses_mtad_by_name_and_nothing_else(small_pair, changed, why):
    asked = f"dict(method='mtad', model={small_pair[1]!r})"
    vanilla = f"dict(method='draft_model', model={small_pair[1]!r}, num_speculative_tokens=2)"
    said = on_another_vllm(small_pair, changed, asked, vanilla)
    (refusal,) = (line for line in said.splitlines() if line.startswith("REFUSED"))
    assert why in refusal
    assert "It was tested with vLLM 0.32.0, 0.33.0, and this is 0.99.0." in refusal
    assert "MADE SpeculativeConfig" in said


def test_a_seam_that_no_longer_exists_harms_nobody_who_does_not_ask(small_pair):
    """A vLLM that renamed a patched name still imports, with the plugin installed; mtad says what is missing."""
    code = (
        "import vllm.plugins; vllm.plugins.plugins_loaded = True\n"
        "from dataclasses import replace; from vllm_mtad.plugin import seams\n"
        "others = [replace(s, name=s.name + '_renamed') for s in seams.SEAMS if 'EngineArgs' not in s.name]\n"
        "seams.SEAMS = (*(s for s in seams.SEAMS if 'EngineArgs' in s.name), *others)\n"
        "from vllm_mtad.plugin.registration import register; register()\n"
        "from vllm.engine.arg_utils import EngineArgs; import vllm.v1.worker.gpu_model_runner\n"
        f"EngineArgs(model={small_pair[0]!r}).create_engine_config()\n"
        "try:\n"
        f"    EngineArgs(model={small_pair[0]!r}, speculative_config='mtad').create_engine_config()\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    message = run_python(code)
    assert "could not patch vllm.config.speculative.SpeculativeConfig.__new___renamed" in message
    assert "has no attribute '__new___renamed'" in message


def test_the_table_of_seams_loads_without_torch():
    assert run_python(
        "import vllm_mtad.plugin.seams, sys; print({'torch', 'vllm', 'pydantic'} & set(sys.modules))"
    ) == ("set()")
