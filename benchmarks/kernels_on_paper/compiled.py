"""`compile_variant` finds out what a variant of a kernel becomes on an architecture.

That is whether it compiles, what it needs, and whether that is there.

Triton's compiler and the ptxas that it brings do the work; no GPU is asked.
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.kernels_on_paper.variants import WARP, Variant

SHARED_LIMITS = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""KiB of shared memory that a program can have, by architecture (CUDA C++ Programming Guide, compute capabilities)."""
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?([A-Z][A-Z0-9_.]*)")
_LABEL = re.compile(r"(\.L\w+):")
_BRANCH = re.compile(r"\bBRA\b.*`\((\.L\w+)\)")


@dataclass(frozen=True)
class Compiled:
    """`shared` and `spilled`: bytes of a program, and of a thread (stores). `registers`: of a thread. `instructions`:
    static; `looped`: those of them that a loop repeats; both 0 where not counted. `seconds`: to compile, one core,
    nothing cached."""

    shared: int
    registers: int
    spilled: int
    instructions: int
    looped: int
    seconds: float
    error: str = ""

    def fits(self, architecture: int) -> bool:
        return not self.error and self.shared <= SHARED_LIMITS[architecture] * 1024


def compile_variant(variant: Variant, architecture: int, *, counted: bool = True) -> Compiled:
    """Compile a variant now, whatever Triton's cache holds. A compiler's refusal is in `error`, its last line.

    `counted`: its instructions, for which the disassembler takes a third of the compiler's time.
    """
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(variant.kernel, variant.signature, variant.constants, variant.attributes)
    log = io.StringIO()
    with tempfile.TemporaryDirectory() as cache, knobs.nvidia.scope(), knobs.cache.scope():
        knobs.cache.dir, knobs.nvidia.dump_ptxas_log = cache, True
        start = time.perf_counter()
        try:
            with contextlib.redirect_stdout(log):
                binary = triton.compile(source, target=GPUTarget("cuda", architecture, WARP), options=variant.options)
        except Exception as error:  # of any of the compiler's passes
            return Compiled(0, 0, 0, 0, 0, time.perf_counter() - start, str(error).strip().splitlines()[-1][:200])
        seconds = time.perf_counter() - start
        cubin = Path(cache) / "kernel.cubin"
        cubin.write_bytes(binary.asm["cubin"])
        instructions, looped = _count_instructions(cubin) if counted else (0, 0)
    (registers,) = re.findall(r"Used (\d+) registers", log.getvalue())
    spilled = re.findall(r"(\d+) bytes spill stores", log.getvalue())
    spills = sum(map(int, spilled))
    return Compiled(binary.metadata.shared, int(registers), spills, instructions, looped, round(seconds, 3))


def _count_instructions(cubin: Path) -> tuple[int, int]:
    """(all, those within loops). Padding is none, nor is the branch to itself that ends a kernel."""
    from triton import knobs

    assembly = subprocess.run(
        [knobs.nvidia.nvdisasm.path, "--print-code", str(cubin)], capture_output=True, text=True, check=True
    ).stdout
    labels, loops, count = dict[str, int](), list[range](), 0
    for line in assembly.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = count
        elif (found := _INSTRUCTION.search(line)) and found[1] != "NOP":
            target = labels.get(branch[1]) if (branch := _BRANCH.search(line)) else None
            if target == count:
                continue
            if target is not None:
                loops.append(range(target, count + 1))
            count += 1
    return count, len(set().union(*loops))
