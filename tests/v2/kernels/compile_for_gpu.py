"""Compiles every kernel for a GPU, without one: `python -m tests.v2.kernels.compile_for_gpu`.

The interpreter does not see what the compiler refuses: types that change in a loop, tiles too small for a dot. Each
wrapper is called as the engine would on a GPU; instead of a launch, what it launches is compiled.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

ARCHITECTURES = (80, 90)
SHARED_BYTES = 99 * 1024  # what the smallest of today's GPUs give a program


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "interpreter" / "site"))
    import triton_on_cpu
    from triton.runtime.jit import JITFunction

    triton_on_cpu.add_cpu_backend()  # or vLLM takes Triton for missing
    import vllm.triton_utils  # noqa: F401
    from triton.backends import backends

    del backends["cpu"]
    compiled: set[str] = set()
    JITFunction.run = lambda kernel, *args, grid, warmup, **kwargs: compile_kernel(kernel, args, kwargs, compiled)
    for dtype in (torch.bfloat16, torch.float32):
        call_every_wrapper(dtype)
    print("COMPILED", *sorted(compiled))


def call_every_wrapper(dtype: torch.dtype) -> None:
    from tests.v2.kernels.test_acceptance import RAGGED, Step
    from tests.v2.kernels.test_beam_attention import Case
    from tests.v2.kernels.test_beams import limits, make_round

    cpu = torch.device("cpu")
    for options in ({}, {"lossless": False, "draw": False, "is_warped": True}):
        batch, logits = make_round(cpu, 2, 4, 4, vocab_size=9000, dtype=dtype, **options)
        batch.run(logits, check=False)
    batch, logits = make_round(cpu, 2, 4, 4, vocab_size=9000, dtype=dtype)
    batch.limits = limits(cpu, len(batch.temperature), 9000, top_p=0.9)
    batch.run(logits, check=False)
    batch, logits = make_round(cpu, 1, 1, 1, vocab_size=300, dtype=dtype)
    batch.run(logits, check=False)
    Case(cpu, [40], beam_width=1, depth=0, heads=(1, 1), dtype=dtype).run(splits=1, upcast=False)
    for depth in (0, 2):
        Case(cpu, [40, 3], depth=depth, heads=(32, 8), head_size=64, dtype=dtype).run(upcast=False)
    for per_token, use_fp64 in ((False, False), (True, True)):
        Step(cpu, RAGGED, vocab_size=9000, dtype=dtype).run(per_token=per_token, use_fp64=use_fp64)


def compile_kernel(kernel: Any, args: tuple, kwargs: dict[str, Any], compiled: set[str]) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = [parameter.name for parameter in kernel.params]
    values = dict(zip(names, args)) | {name: kwargs.pop(name) for name in names if name in kwargs}
    constants = {p.name: values[p.name] for p in kernel.params if p.is_constexpr}
    constants |= {name: value for name, value in values.items() if type(value) is int and value == 1}  # as Triton does
    signature = {name: "constexpr" if name in constants else type_name(value) for name, value in values.items()}
    source = ASTSource(kernel, signature, constants)
    for architecture in ARCHITECTURES:
        binary = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=kwargs)
        assert binary.metadata.shared <= SHARED_BYTES, (kernel.__name__, binary.metadata.shared)
    compiled.add(kernel.__name__)


def type_name(value: Any) -> str:
    from triton.runtime.jit import mangle_type

    return mangle_type(value)


if __name__ == "__main__":
    main()
