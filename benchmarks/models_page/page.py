"""`made_page` is the text of `docs/models.md`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.models_page.families import NOTES, all_verdicts, draft_of
from benchmarks.models_page.kinds import KINDS
from benchmarks.models_page.verdicts import MAX_MODEL_LEN, STAND_INS, Verdict, ask
from vllm_mtad.config.draft_table import Family, Shape

PATH = Path(__file__).parents[2] / "docs" / "models.md"
HEAD = f"""# Which models go together

`python -m benchmarks.models_page` writes this page and asks mtad's own checks for it: do not edit it. Each row is a
pair of `config.json` and a tokenizer of a few words, from which vLLM's configuration is made as `vllm serve` makes it,
at `--max-model-len {MAX_MODEL_LEN}`. vLLM 0.32.0 and 0.33.0 give the same page. For models of your own:
`vllm-mtad doctor TARGET DRAFT`.

**No real weights were run: none were at hand.** "Accepted" means that nothing speaks against starting a server; which
kinds were run, with small models, the last column of [the second table](#kinds-of-models) and
[support.md](support.md) say. V2 is asked on a CPU that is told that Triton is there: what only a GPU's platform refuses
(a quantization, an attention backend) is not in it. Some classes vLLM imports only where torchvision is installed, and
another class of their kind was asked in their place:
{", ".join(f"`{name}`" for name in STAND_INS)}.
"""
FAMILIES_HEAD = """## Known drafts

`--speculative-config mtad` alone takes these drafts. A target is known by the last part of its hub id or folder
(patterns here), whatever that adds for a quantization: `-FP8`, `-AWQ`, `-GPTQ-Int4`, `-quantized.w4a16`, `-bnb-4bit` …
A target that is quantized, as its `config.json` says, is also known by its shape, whatever its owner and name:
`model_type`, `hidden_size`, `num_hidden_layers`, `vocab_size`. Its name then says whether it is instruction-tuned
(`instruct`, `chat`, `-it`; for Qwen3 whether it is not: `-base`) or for code (`coder`). A fine-tune that is not
quantized is not recognised: name its draft with `--spec-model`, or as `mtad_draft` in its `config.json`. That the
models of a row share a tokenizer was not looked at here, where one of a few words stands for it; at start their own
are compared.
"""
KINDS_HEAD = """## Kinds of models

Small models of each kind. The draft is of the target's family or, where there could be none or the row is about the
target, a Llama with full attention.
"""


def made_page() -> str:
    reasons = Numbered()
    families = _table(
        ("targets", "draft", "V2 (GPU)", "V1 (CPU)", "widest beam on a GPU", "what is special"),
        (_family_row(family, of_shapes, reasons) for family, of_shapes in all_verdicts().items()),
    )
    verdicts = [(kind, ask(kind.pair)) for kind in KINDS]
    kinds = _table(
        ("target, or draft", "V2 (GPU)", "V1 (CPU)", "tested on"),
        (
            (kind.what, _cell(verdict.v2, reasons), _cell(verdict.v1, reasons), kind.tested_on)
            for kind, verdict in verdicts
        ),
    )
    listed = "".join(f"{number}. {reason}\n" for number, reason in enumerate(reasons.all, start=1))
    return "\n".join([HEAD, FAMILIES_HEAD, families, KINDS_HEAD, kinds, "## Reasons\n", listed])


class Numbered:
    """Sentences, each with the number that it was first given."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def number(self, sentence: str) -> int:
        if sentence not in self.all:
            self.all.append(sentence)
        return self.all.index(sentence) + 1


def _family_row(family: Family, of_shapes: Mapping[Shape, Verdict], reasons: Numbered) -> tuple[str, ...]:
    """`V2` and `V1` for all of its shapes, or by `hidden_size`."""
    cells = []
    for runner in ("v2", "v1"):
        sizes: dict[str, list[int]] = {}
        for shape, verdict in of_shapes.items():
            sizes.setdefault(_cell(getattr(verdict, runner), reasons), []).append(shape[1])
        by_size = [f"{cell} with hidden_size {_listed(of)}" for cell, of in sizes.items()]
        cells.append("; ".join(by_size if len(by_size) > 1 else sizes))
    targets = f"`{family.targets}`".replace(r"\.", ".").replace("|", r"\|")
    beam = str(draft_of(family).widest_beams)
    return targets, f"`{family.draft}`", *cells, beam, NOTES.get(family.name, "")


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, dict.fromkeys(sizes)))


def _cell(against: tuple[str, ...], reasons: Numbered) -> str:
    return f"refused ({', '.join(str(reasons.number(reason)) for reason in against)})" if against else "accepted"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
