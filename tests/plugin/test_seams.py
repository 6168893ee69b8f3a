"""What stands where a seam is applied; where one is not, mtad is refused by name and nothing else changes."""

import functools
import importlib
import inspect
import json
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
        "append_block_ids": ("v2.missed_text", "MissedText._append"),
        "forward": ("v2.attention_stand_in", "AttentionStandIn.forward"),
        "fused_output_quant_supported": ("v2.attention_stand_in", "_fuses_no_quantization"),
    }
    source = inspect.getsource(importlib.import_module(seam.replaced_in))
    assert f".{seam.name} = " in source
    assert seam.why
    assert seam.remove_when
    own = find(f"vllm_mtad.runners.{replacements[seam.name][0]}", replacements[seam.name][1])
    theirs = [name for name in inspect.signature(original).parameters if name != "self"]
    of_ours = ("self", "append", "build", "update")  # what is bound to it
    ours = [name for name in inspect.signature(own).parameters if name not in of_ours]
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


@pytest.fixture(scope="module")
def printed(small_pair) -> dict[str, str]:
    """What each case of `changed_vllm` printed."""
    environment = os.environ | {"VLLM_LOGGING_LEVEL": "INFO"}  # a tool may have been asked for less in this process
    done = run(sys.executable, "-m", "tests.plugin.changed_vllm", *small_pair, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_left_out_of_vllm_plugins_it_patches_nothing(printed):
    assert "STANDING []" in printed["left_out_of_vllm_plugins"]
    own = [seam.name for seam in SEAMS if seam.runner != "v2" and not seam.may_be_absent]
    assert f"STANDING {own}" in printed["named_in_vllm_plugins"]


def test_registering_imports_no_engine_and_no_worker():
    code = (
        "import sys, vllm; from vllm.plugins import load_general_plugins; load_general_plugins()\n"
        "print([m for m in sys.modules if m.startswith(('vllm.v1.engine.core', 'vllm.v1.worker.gpu_model_runner',"
        " 'vllm.v1.worker.gpu.', 'vllm_mtad.runners', 'vllm_mtad.tools', 'vllm_mtad.algorithm.beams', 'benchmarks'))])"
    )
    assert run_python(code) == "[]"


def test_a_vllm_that_was_not_tested_runs_mtad_with_a_warning_if_all_is_as_it_was(printed):
    said = printed["untested_asked_for_mtad"]
    assert "MADE MTADSpeculativeConfig" in said
    assert said.count("mtad was tested with vLLM 0.32.0, 0.33.0, and this is 0.99.0.") == 1


def test_a_vllm_that_was_not_tested_says_nothing_to_who_does_not_ask_for_mtad(printed):
    said = printed["untested_asked_for_draft_model"]
    assert "MADE SpeculativeConfig" in said
    assert "mtad" not in said.lower()


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("a_line_is_gone", "vllm.v1.core.kv_cache_utils.update_kv_cache_capacity has no longer the line"),
        (
            "a_signature_is_another",
            "MTADProposer.initialize_attn_backend does not fit what it overrides (vLLM's takes (self, config), ours",
        ),
        ("an_overridden_method_is_gone", "MTADProposer._create_draft_vllm_config overrides what is not there"),
        (
            "a_name_is_gone",
            "own modules cannot be imported beside it (cannot import name 'compute_new_slot_mapping'",
        ),
    ],
)
def test_one_that_has_changed_refuses_mtad_by_name_and_nothing_else(printed, case, why):
    said = printed[case]
    (refusal,) = (line for line in said.splitlines() if line.startswith("REFUSED"))
    assert why in refusal
    assert "It was tested with vLLM 0.32.0, 0.33.0, and this is 0.99.0." in refusal
    assert "MADE SpeculativeConfig" in said


def test_a_seam_that_no_longer_exists_harms_nobody_who_does_not_ask(printed):
    """A vLLM that renamed a patched name still imports, with the plugin installed; mtad says what is missing."""
    said = printed["patched_names_are_others"]
    assert "MADE NoneType" in said
    (refusal,) = (line for line in said.splitlines() if line.startswith("REFUSED"))
    assert "could not patch vllm.config.speculative.SpeculativeConfig.__new___renamed" in refusal
    assert "has no attribute '__new___renamed'" in refusal


def test_the_table_of_seams_loads_without_torch():
    assert run_python(
        "import vllm_mtad.plugin.seams, sys; print({'torch', 'vllm', 'pydantic'} & set(sys.modules))"
    ) == ("set()")
