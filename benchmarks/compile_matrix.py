"""This script compiles every kernel over what the configuration accepts, for every architecture, without a GPU:
`python -m benchmarks.compile_matrix`.

The space: `kernels_on_paper.accepted_space`, at 128,256 tokens. Rows are appended to `compiled.jsonl` in the output
folder as they are made; the same command goes on where it was interrupted, and compiles again what changed since.
`table.md` is written from them at the end, and by `--tables` alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.kernels_on_paper.compiled import SHARED_LIMITS, compile_variant
from benchmarks.kernels_on_paper.matrix_tables import tables
from benchmarks.kernels_on_paper.variants import Variant, use_triton_without_a_gpu

DEFAULT = Path(__file__).parent / "results" / "compile-matrix"
TIMED_ARCHITECTURE = 90
"""The architecture for which all that a serving process needs is compiled."""

_variants: list[Variant] = []
"""Those of the parent when it forks: kernels cannot be sent to another process."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT)
    parser.add_argument("--kernels", nargs="+", default=None, help="names, or parts of names")
    parser.add_argument("--architectures", type=int, nargs="+", default=list(SHARED_LIMITS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tables", action="store_true", help="compile nothing")
    options = parser.parse_args()
    use_triton_without_a_gpu()
    from benchmarks.kernels_on_paper.accepted_space import whole_space
    from benchmarks.kernels_on_paper.serving import serving_variants

    served = serving_variants()
    wanted = {(identity(v), a): v for v in whole_space() for a in SHARED_LIMITS}
    wanted |= {(identity(v), TIMED_ARCHITECTURE): v for v in served[min(served)]}
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "compiled.jsonl"
    rows = [row for row in _read(file) if (row["variant"], row["architecture"]) in wanted]
    if not options.tables:
        done = {(row["variant"], row["architecture"]) for row in rows}
        to_do = [
            (variant, architecture)
            for (name, architecture), variant in wanted.items()
            if (name, architecture) not in done
            and architecture in options.architectures
            and (options.kernels is None or any(part in variant.name for part in options.kernels))
        ]
        rows += _compile_all(to_do, file, options.processes)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    of_serving = {gamma: [(v.name, identity(v)) for v in variants] for gamma, variants in served.items()}
    (options.out / "table.md").write_text(tables(rows, len(wanted), of_serving))
    print(f"{len(rows)} of {len(wanted)} compiled; {options.out / 'table.md'}")


def identity(variant: Variant) -> str:
    """A hash of a variant and of the source that it was made from, called functions included."""
    return hashlib.sha256((variant.kernel.cache_key + variant.key).encode()).hexdigest()[:16]


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _compile_all(to_do: Sequence[tuple[Variant, int]], file: Path, processes: int) -> Iterator[dict[str, Any]]:
    _variants[:] = [variant for variant, _ in to_do]
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, mp_context=fork) as pool, file.open("a") as out:
        futures = [pool.submit(_compile, i, architecture) for i, (_, architecture) in enumerate(to_do)]
        for done, future in enumerate(as_completed(futures), start=1):
            row = future.result()
            out.write(json.dumps(row) + "\n")
            out.flush()
            if done % 50 == 0:
                print(f"{done} of {len(to_do)}", flush=True)
            yield row


def _compile(index: int, architecture: int) -> dict[str, Any]:
    variant = _variants[index]
    compiled = compile_variant(variant, architecture)
    return {
        "kernel": variant.name,
        "architecture": architecture,
        "variant": identity(variant),
        **dataclasses.asdict(compiled),
        "fits": compiled.fits(architecture),
        "constexprs": variant.constexprs,
        "specialized": variant.specialized,
        "options": variant.options,
    }


if __name__ == "__main__":
    main()
