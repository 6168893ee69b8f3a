"""Compiles every kernel for GPUs at the corners of the accepted space: `python -m tests.v2.kernels.compile_for_gpu`.

Prints one line of JSON for each (variant, architecture). The interpreter does not see what the compiler refuses, nor
what a program needs; no GPU is asked.
"""

from __future__ import annotations

import dataclasses
import json

ARCHITECTURES = (86, 90)
"""Of each of Triton's paths the one with least shared memory: sm_80 and sm_89 are compiled as sm_86."""


def main() -> None:
    from benchmarks.kernels_on_paper.variants import use_triton_without_a_gpu

    use_triton_without_a_gpu()
    from benchmarks.kernels_on_paper.accepted_space import corners
    from benchmarks.kernels_on_paper.compiled import compile_variant

    for variant in corners():
        for architecture in ARCHITECTURES:
            compiled = compile_variant(variant, architecture, counted=False)
            row = {"kernel": variant.name, "architecture": architecture, "fits": compiled.fits(architecture)}
            row["query"] = variant.signature.get("query_ptr")
            print(json.dumps(row | dataclasses.asdict(compiled) | {"constexprs": variant.constexprs}), flush=True)


if __name__ == "__main__":
    main()
