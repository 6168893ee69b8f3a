"""What batches of each size would compile: `python -m tests.v2.kernels.serve_all_sizes`.

Prints one line of JSON for each variant of a kernel, with the size of the batch that needed it first and how it differs
from the nearest variant that the first batch needed.
"""

from __future__ import annotations

import json

SHAPES = {"B = 4, 128,256 tokens": {}, "B = 3, 151,936 tokens": {"beam_width": 3, "vocab_size": 151_936}}
"""The second has pieces of odd sizes, and an odd number of vocabulary blocks."""


def main() -> None:
    from benchmarks.kernels_on_paper.variants import use_triton_without_a_gpu

    use_triton_without_a_gpu()
    from benchmarks.kernels_on_paper.pieces import Shape
    from benchmarks.kernels_on_paper.serving import FIRST, MANY, SIZES, variants_by_size

    for name, values in SHAPES.items():
        found = variants_by_size(Shape(max_num_reqs=max(MANY)).but(**values), (*SIZES, *MANY), depths=(0, 1))
        firsts = [variant for num_reqs, variant in found if num_reqs == FIRST]
        for num_reqs, variant in found:
            others = (first for first in firsts if first.name == variant.name and first.key != variant.key)
            nearest = min((variant.differences(other) for other in others), key=len, default=[])
            row = {"shape": name, "kernel": variant.name, "requests": num_reqs, "differs": nearest}
            print(json.dumps(row | {"is_first": num_reqs == FIRST}))


if __name__ == "__main__":
    main()
