"""Each seam against the source of the supported vLLM: signature, and the lines that the replacement relies on.

When one of these fails on a new vLLM, read what changed there before touching the expectation.
"""

import importlib
import inspect
import os
import pkgutil
import sys
from types import SimpleNamespace
from typing import get_args

import pytest

from tests.commands import run
from tests.config.asking import create, refusal
from vllm_mtad.plugin import seams
from vllm_mtad.plugin.availability import check_available
from vllm_mtad.plugin.seams import INSTANCE_SEAMS, SEAMS, apply_seam

# Seam -> (parameters, lines that must stand in the source of what is replaced).
CONTRACTS = {
    "EngineArgs.add_cli_args": (["parser"], ['"--speculative-config", "-sc"', '"--spec-method"']),
    "EngineArgs.create_engine_config": (
        ["self", "usage_context", "headless"],
        ["speculative_config = self.create_speculative_config("],
    ),
    "EngineArgs.create_speculative_config": (
        ["self", "target_model_config", "target_parallel_config"],
        ['("--spec-method", "method", self.spec_method)', "return SpeculativeConfig(**self.speculative_config)"],
    ),
    "SamplingParams._validate_spec_decode": (
        ["self", "speculative_config"],
        ["if self.min_p > _SAMPLING_EPS or self.logit_bias:"],
    ),
    "EngineCore._initialize_kv_caches": (
        ["self", "vllm_config"],
        [
            "scheduler_kv_cache_config = generate_scheduler_kv_cache_config(kv_cache_configs)",
            "self.model_executor.initialize_from_config(kv_cache_configs)",
            "return scheduler_kv_cache_config",
        ],
    ),
    "GPUModelRunner._get_spec_decode_draft_probs": (
        ["self", "spec_decode_metadata"],
        ["if self._draft_probs is None or self._draft_prob_req_ids is None:"],
    ),
    "GPUModelRunner._input_fits_in_drafter": (["self", "common_attn_metadata"], ["common_attn_metadata.max_seq_len"]),
    "GPUModelRunner._bookkeeping_sync": (
        ["self", "scheduler_output", "sampler_output", "logits", "hidden_states", "num_scheduled_tokens"],
        ["gen = self.input_batch.generators.get(int(i))", "gen.set_offset(gen.get_offset() - 4)"],
    ),
}
CONTRACTS["GPUModelRunner.load_model"] = (
    ["self", "load_dummy_weights", "args", "model", "kwargs"],
    ["self.sampler = Sampler(**sampler_kwargs)", "self.rejection_sampler = RejectionSampler("],
)
V2 = "vllm.v1.worker.gpu"
# Places that no seam patches but the adapters rely on: (module, name) -> lines.
RELIED_ON = {
    ("vllm.config.vllm", "VllmConfig.__post_init__"): ["not in get_args(NgramGPUTypes)"],
    (f"{V2}.spec_decode", "init_speculator"): [
        "elif speculative_config.uses_draft_model():",
        "return StandaloneARSpeculator(vllm_config, device)",
    ],
    (f"{V2}.sample.gumbel", "_log1p_neg_stable"): ["direct = tl.log(tl.maximum(1.0 - value"],
    (f"{V2}.spec_decode.standalone_ar.speculator", "prepare_prefill_inputs"): [
        "expanded_input_ids: torch.Tensor",
        "last_token_indices: torch.Tensor",
        "return src_tokens + num_reqs",
    ],
    (f"{V2}.cudagraph_utils", "CudaGraphManager._init_candidates"): ["self._capture_descs[mode] = descs"],
    ("vllm.v1.sample.ops.topk_topp_triton", "apply_top_k_top_p_triton"): ["_TRITON_BUFFER_CACHE[buf_key] = buffer"],
    (f"{V2}.model_runner", "GPUModelRunner.sample_tokens"): [
        "draft_tokens[:, num_spec_tokens:] = -1",
        "self.req_states.draft_tokens[input_batch.idx_mapping] = draft_tokens",
    ],
    (f"{V2}.model_runner", "GPUModelRunner.initialize_kv_cache"): [
        "self.speculator.set_attn(",
        "self.speculator.init_cudagraph_manager(cudagraph_mode)",
        "self.model_state.initialize_kv_cache(self.kv_cache_config, self.block_tables)",
    ],
    (f"{V2}.model_runner", "GPUModelRunner.execute_model"): [
        "block_tables, slot_mappings = self.prepare_attn(input_batch)",
        "attn_metadata = self.model_state.prepare_attn(",
    ],
    (f"{V2}.model_runner", "GPUModelRunner.gather_batch_req_state"): [
        "decode_graph_eligible = not has_prefill",
        "return batch_state, get_uniform_decode_token_count(",
        "req_ids = sort_batch_req_ids(",
    ],
    (f"{V2}.model_runner", "sort_batch_req_ids"): [
        "not draft_tokens.get(r),",
        "return sorted(num_tokens_per_req, key=key)",
    ],
    (f"{V2}.sample.sampler", "Sampler.add_request"): [
        "for processor in self.logits_processors:",
        "processor.add_request(req_idx, sampling_params)",
    ],
    (f"{V2}.cudagraph_utils", "prepare_inputs_to_capture"): ["attn_metadata = model_state.prepare_attn("],
    (f"{V2}.spec_decode.rejection_sampler", "_gather_draft_sampled_kernel"): [
        "is_placeholder = (local_pos > 0) & (pos - local_pos < prefill_len)"
    ],
    (f"{V2}.spec_decode.speculator", "DraftModelSpeculator._copy_request_inputs"): [
        "self.idx_mapping.fill_(-1)",
        "self.idx_mapping[num_reqs:].fill_(-1)",
    ],
    (f"{V2}.spec_decode.rejection_sampler", "RejectionSampler._verify_in_chunks"): [
        "processed_logits, sampled, num_sampled = self._verify(",
    ],
    (f"{V2}.spec_decode.rejection_sampler", "RejectionSampler.__call__"): [
        "verify_draft_sampled = draft_sampled.masked_fill(invalid_drafts, -1)"
    ],
    (f"{V2}.sample.sampler", "Sampler.apply_sampling_params"): ["return self.sampling_states.apply_top_k_top_p("],
    (f"{V2}.cudagraph_utils", "profile_cudagraph_memory"): ["if isinstance(value, CudaGraphManager)"],
    (f"{V2}.cudagraph_utils", "CudaGraphManager.capture"): ["forward_fn = create_forward_fn(desc, warmup=True)"],
    ("vllm.v1.attention.backends.flash_attn", "FlashAttentionImpl.forward"): [
        "key_cache, value_cache = kv_cache.transpose(1, 2).split(self.head_size, dim=-1)"
    ],
    ("vllm.v1.attention.backends.triton_attn", "TritonAttentionImpl.forward"): [
        "# KV cache arrives in logical (B, H, N, 2*hs) order."
    ],
    ("vllm.v1.attention.backends.cpu_attn", "CPUAttentionBackendImpl.forward"): [
        "kv_cache = kv_cache.view((num_blocks, num_kv_heads, block_size * 2, -1))"
    ],
    ("vllm.model_executor.layers.attention.attention", "unified_attention_with_output"): ["self.impl.forward("],
    ("vllm.model_executor.layers.attention.attention", "unified_kv_cache_update"): [
        "if layer_slot_mapping is not None:"
    ],
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner.__init__"): [
        "elif self.speculative_config.uses_draft_model():",
        "self.drafter = DraftModelProposer(",
        "self.rejection_sampler = RejectionSampler(",
    ],
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner._sample"): [
        "draft_probs = self._get_spec_decode_draft_probs(spec_decode_metadata)",
        "sampler_output = self.rejection_sampler(",
    ],
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner.propose_draft_token_ids"): [
        "draft_probs = self.drafter.take_last_draft_probs()",
        "self._draft_prob_req_ids = self.input_batch.req_ids.copy()",
    ],
    ("vllm.v1.worker.gpu_input_batch", "InputBatch.refresh_metadata"): [
        "self.sampling_metadata = self._make_sampling_metadata()"
    ],
    ("vllm.v1.spec_decode.llm_base_proposer", "SpecDecodeBaseProposer.propose"): [
        "self._determine_batch_execution_and_padding(num_tokens)",
        "self.build_per_group_and_layer_attn_metadata(",
    ],
    ("vllm.v1.sample.sampler", "Sampler.apply_logits_processors"): ["predict_bonus_token"],
    ("vllm.v1.core.sched.scheduler", "Scheduler.schedule"): ["input_budget -= num_new_tokens + draft_slots"],
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner._get_draft_token_ids_cpu"): [
        "if isinstance(self._draft_token_ids, list):"
    ],
    ("vllm.platforms.cpu", "CpuPlatform.check_and_update_config"): ["scheduler_config.async_scheduling = False"],
    ("vllm.v1.metrics.loggers", "PrometheusStatLogger.record"): ["self.spec_decoding_prom.observe("],
    ("vllm.v1.spec_decode.metrics", "SpecDecodingStats.observe_draft"): [
        "self.num_accepted_tokens_per_pos[i] += 1",
        "self.num_draft_tokens_per_pos[i] += 1",
    ],
    ("vllm.v1.core.kv_cache_utils", "update_kv_cache_capacity"): [
        "get_kv_cache_capacity(vllm_config, kv_cache_config)"
    ],
}


def find(module: str, name: str):
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.fixture(scope="module", autouse=True)
def _registered():
    from vllm.plugins import load_general_plugins

    load_general_plugins()  # by the entry point, and only once in a process


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.name)
def test_seam_is_in_place_once_and_says_why(seam):
    replaced = find(seam.module, seam.name)
    assert replaced.__mtad_seam__ == seam.name
    apply_seam(seam, importlib.import_module(seam.module))
    assert find(seam.module, seam.name) is replaced, "a seam must not be applied twice"
    assert seam.why
    assert seam.remove_when


@pytest.mark.parametrize("name", CONTRACTS)
def test_what_is_replaced_still_has_its_shape(name):
    seam = next(seam for seam in SEAMS if seam.name == name)
    original = inspect.unwrap(find(seam.module, seam.name))
    parameters, lines = CONTRACTS[name]
    assert list(inspect.signature(original).parameters) == parameters
    source = inspect.getsource(original)
    for line in lines:
        assert line in source


def test_every_seam_has_a_contract():
    constructors = {seam.name for seam in SEAMS if seam.name.endswith(".__new__")}
    assert {seam.name for seam in SEAMS} == set(CONTRACTS) | constructors | {"NgramGPUTypes"}


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


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.name)
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


@pytest.mark.parametrize(("module", "name"), RELIED_ON)
def test_what_the_adapters_rely_on_is_there(module, name):
    source = inspect.getsource(inspect.unwrap(find(module, name)))
    for line in RELIED_ON[module, name]:
        assert line in source


@pytest.mark.parametrize(
    ("module", "name", "parameters"),
    [
        ("vllm.v1.spec_decode.draft_model", "DraftModelProposer", ["vllm_config", "device", "runner"]),
        ("vllm.v1.sample.rejection_sampler", "RejectionSampler", ["sampler", "spec_config", "device"]),
        (f"{V2}.spec_decode.standalone_ar.speculator", "StandaloneARSpeculator", ["vllm_config", "device"]),
        (
            "vllm.v1.spec_decode.metrics",
            "SpecDecodingProm",
            ["speculative_config", "labelnames", "per_engine_labelvalues", "is_diffusion"],
        ),
    ],
)
def test_constructors_still_choose_by_the_configuration(module, name, parameters):
    cls = find(module, name)
    assert list(inspect.signature(cls.__init__).parameters)[1:] == parameters
    assert cls.__new__.__mtad_seam__ == f"{name}.__new__"


def overriding_classes():
    """Every class of ours that derives from one of vLLM's."""
    found = []
    for package in ("vllm_mtad.runners", "vllm_mtad.config", "vllm_mtad.plugin"):
        root = importlib.import_module(package)
        for info in pkgutil.walk_packages(root.__path__, f"{package}."):
            module = importlib.import_module(info.name)
            found += [
                c
                for c in vars(module).values()
                if inspect.isclass(c)
                and c.__module__ == module.__name__
                and any(base.__module__.split(".")[0] == "vllm" for base in c.__mro__)
            ]
    return found


def test_what_is_overridden_has_its_parents_parameters_in_order_with_their_defaults():
    """Ours may take more, with defaults, and may gather what it hands on."""
    overridden = []
    for cls in overriding_classes():
        parents = [base for base in cls.__mro__[1:] if base.__module__.split(".")[0] == "vllm"]
        for name, own in vars(cls).items():
            parent = next((vars(base)[name] for base in parents if name in vars(base)), None)
            if not inspect.isfunction(own) or not inspect.isfunction(parent) or name in CHANGED_ON_PURPOSE:
                continue
            overridden.append(f"{cls.__name__}.{name}")
            ours, theirs = (list(inspect.signature(f).parameters.values()) for f in (own, parent))
            gathers = any(p.kind is p.VAR_POSITIONAL for p in ours)
            plain = [p for p in ours if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
            expected = theirs[: len(plain)] if gathers else theirs
            assert [(p.name, p.default) for p in plain[: len(expected)]] == [(p.name, p.default) for p in expected], (
                f"{cls.__name__}.{name}"
            )
            assert all(p.default is not p.empty for p in plain[len(expected) :]), f"{cls.__name__}.{name}"
    for expected in ("MTADProposer.propose", "MTADRejectionSampler.forward", "MTADSpeculator.propose"):
        assert expected in overridden
    assert "MTADRejectionSampler._verify" in overridden


CHANGED_ON_PURPOSE = {"__init__", "__repr__"}
"""vLLM's constructors are met by the `__new__` seams, whose contract is above."""


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
        "standing = [seam.name for seam in SEAMS if seam.runner != 'v2' and why_missing(seam) is None]\n"
        "print('STANDING', standing)\n"
    )
    for plugins, expected in (("another", []), ("mtad", [s.name for s in SEAMS if s.runner != "v2"])):
        done = run(sys.executable, "-c", script, env=os.environ | {"VLLM_PLUGINS": plugins})
        assert f"STANDING {expected}" in done.stdout, done.stderr[-2000:]


def test_registering_imports_no_engine_and_no_worker():
    code = (
        "import sys, vllm; from vllm.plugins import load_general_plugins; load_general_plugins()\n"
        "print([m for m in sys.modules if m.startswith(('vllm.v1.engine.core', 'vllm.v1.worker.gpu_model_runner',"
        " 'vllm.v1.worker.gpu.', 'vllm_mtad.runners', 'vllm_mtad.tools', 'vllm_mtad.algorithm.beams', 'benchmarks'))])"
    )
    assert run_python(code) == "[]"


UNSUPPORTED = (
    "import vllm.plugins; vllm.plugins.plugins_loaded = True\n"  # as if only this registration ran
    "import vllm; vllm.__version__ = '0.99.0'\n"
    "from vllm_mtad.plugin.registration import register; register()\n"
    "from vllm.engine.arg_utils import EngineArgs\n"
)


@pytest.mark.parametrize("asked", ["'mtad'", "{'method': 'mtad', 'model': 'anything'}"])
def test_an_unsupported_vllm_refuses_mtad_by_name(small_pair, asked):
    code = (
        f"{UNSUPPORTED}"
        "try:\n"
        f"    EngineArgs(model={small_pair[0]!r}, speculative_config={asked}).create_engine_config()\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    message = run_python(code)
    assert "'mtad' is not available" in message
    assert "0.99.0" in message


def test_a_seam_that_no_longer_exists_harms_nobody_who_does_not_ask(small_pair):
    """A vLLM that renamed a patched name still imports, with the plugin installed; mtad says what is missing."""
    code = (
        "import vllm.plugins; vllm.plugins.plugins_loaded = True\n"
        "from dataclasses import replace; from vllm_mtad.plugin import seams\n"
        "seams.SEAMS = tuple(s if s.refuses_mtad else replace(s, name=s.name + '_renamed') for s in seams.SEAMS)\n"
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


def test_an_unsupported_vllm_is_otherwise_as_if_the_plugin_were_not_there(small_pair):
    code = (
        f"{UNSUPPORTED}"
        f"given = dict(method='draft_model', model={small_pair[1]!r}, num_speculative_tokens=2)\n"
        f"config = EngineArgs(model={small_pair[0]!r}, speculative_config=given).create_engine_config()\n"
        "from vllm.v1.worker.gpu_model_runner import DraftModelProposer\n"
        "print(type(config.speculative_config).__name__, '__new__' in vars(DraftModelProposer))\n"
    )
    assert run_python(code) == "SpeculativeConfig False"
