"""Under which configuration the draft is loaded: passes larger than a step of the target, and a backend of its own."""

import logging
import sys
from types import ModuleType

import pytest
from vllm.config import replace
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms.cpu import CpuPlatform
from vllm.platforms.interface import DeviceCapability
from vllm.v1.attention import selector
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from vllm_mtad.runners.v2.draft_config import draft_config

TOKENS, REQUESTS = 200, 40


def engine_config(pair, **fields):
    target, draft = pair
    speculative = {"method": "mtad", "model": draft, **fields}
    return EngineArgs(
        model=target,
        dtype="float32",
        max_model_len=192,
        max_num_seqs=REQUESTS,
        max_num_batched_tokens=TOKENS,
        speculative_config=speculative,
    ).create_engine_config()


def as_loaded(config):
    """What vLLM makes of the draft's configuration: it computes the compiled ranges anew."""
    own = draft_config(config)
    return replace(own, model_config=config.speculative_config.draft_model_config, quant_config=None)


def last_token(config) -> int:
    return config.compilation_config.get_compile_ranges()[-1].end


@pytest.mark.parametrize(("beam_width", "largest"), [(4, TOKENS + REQUESTS), (16, 16 * REQUESTS)])
def test_the_draft_is_compiled_for_its_largest_pass_and_the_target_for_its_own(small_pair, beam_width, largest):
    config = engine_config(small_pair, beam_width=beam_width)
    loaded = as_loaded(config)
    assert last_token(loaded) == largest
    assert len(loaded.compilation_config.get_compile_ranges()) == len(config.compilation_config.get_compile_ranges())
    assert last_token(config) == config.scheduler_config.max_num_batched_tokens == TOKENS


def test_layers_register_where_the_target_s_do(small_pair):
    config = engine_config(small_pair)
    loaded = as_loaded(config)
    assert loaded.compilation_config.static_forward_context is config.compilation_config.static_forward_context


def chosen_backend(config):
    return draft_config(config).attention_config.backend


def test_where_beams_can_read_vllms_choice_it_stays(small_pair):
    assert chosen_backend(engine_config(small_pair)) is None


def test_the_field_names_the_draft_s_backend(small_pair):
    config = engine_config(small_pair, attention_backend="TRITON_ATTN")
    config.attention_config.backend_per_kind = {"full_attention": AttentionBackendEnum.FLASH_ATTN}
    own = draft_config(config).attention_config
    assert own.backend == AttentionBackendEnum.TRITON_ATTN
    assert not own.backend_per_kind, "it would go before the field"
    assert config.attention_config.backend_per_kind


def test_on_blackwell_the_draft_takes_a_backend_that_beams_can_read(small_pair, monkeypatch, caplog):
    """vLLM's real order of backends for a device of capability 10.0, which begins with FLASHINFER."""
    monkeypatch.setitem(sys.modules, "vllm._C_stable_libtorch", ModuleType("not on a CPU"))
    from vllm.platforms.cuda import CudaPlatformBase

    class Blackwell(CudaPlatformBase):
        @classmethod
        def get_device_capability(cls, device_id=0):
            return DeviceCapability(10, 0)

    def available(backend, capability, **config):
        """As where FlashInfer and Triton are installed and FlashAttention is not."""
        return [] if backend.get_name() in ("FLASHINFER", "TRITON_ATTN") else ["not installed"]

    class Named:
        def __init__(self, name):
            self.name = name

        def get_name(self):
            return self.name

        def validate_configuration(self, device_capability, **config):
            return available(self, device_capability)

        def full_cls_name(self):
            return ("here", self.name)

    config = engine_config(small_pair)
    monkeypatch.setattr("vllm.platforms.cuda._get_attn_backend_class", lambda backend: Named(backend.name))
    monkeypatch.setattr(CpuPlatform, "get_attn_backend_cls", Blackwell.get_attn_backend_cls)
    monkeypatch.setattr(selector, "resolve_obj_by_qualname", lambda path: Named(path.removeprefix("here.")))
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    selector._cached_get_attn_backend.cache_clear()
    try:
        with caplog.at_level(logging.INFO, logger="vllm.mtad"):
            assert chosen_backend(config) == AttentionBackendEnum.TRITON_ATTN
    finally:
        selector._cached_get_attn_backend.cache_clear()
    assert "MTAD's draft model uses TRITON_ATTN: beams cannot read the KV cache of FLASHINFER." in caplog.messages
