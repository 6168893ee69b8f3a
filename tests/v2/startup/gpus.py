"""GPUs as vLLM asks for them when it chooses its defaults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from vllm.engine import arg_utils
from vllm.engine.arg_utils import EngineArgs

GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: int
    capability: tuple[int, int]


GPUS = (
    Gpu("NVIDIA H100 80GB HBM3", 79 * GIB, (9, 0)),
    Gpu("NVIDIA A100-SXM4-80GB", 79 * GIB, (8, 0)),
    Gpu("NVIDIA L4", 22 * GIB, (8, 9)),
    Gpu("NVIDIA GeForce RTX 4090", 23 * GIB, (8, 9)),
    Gpu("NVIDIA B200", 178 * GIB, (10, 0)),
)


@contextmanager
def default_sizes_of(gpu: Gpu) -> Iterator[None]:
    """vLLM's own choice of batch sizes sees this GPU; everything else sees the CPU."""
    platform = SimpleNamespace(
        get_device_total_memory=lambda: gpu.memory,
        get_device_name=lambda: gpu.name,
        is_device_capability=lambda capability: capability == gpu.capability,
        is_tpu=lambda: False,
        is_cpu=lambda: False,
    )
    choose = EngineArgs.get_batch_defaults.__func__

    def choose_for_the_gpu(cls, world_size):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(arg_utils, "current_platform", platform)
            return choose(cls, world_size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EngineArgs, "get_batch_defaults", classmethod(choose_for_the_gpu))
        yield
