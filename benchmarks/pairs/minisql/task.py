"""A MiniSQL example is a prompt, the SQL that an annotator wrote, and a database to check any answer on.

The generator is unlimited. A prompt's split is a function of its text, so an example that is held out can
never be trained on, whatever seed drew it.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.pairs.minisql.check import check, rows_of
from benchmarks.pairs.minisql.query import random_query
from benchmarks.pairs.minisql.schema import Table, random_schema
from benchmarks.pairs.minisql.spelling import CANONICAL, careless_copy, random_spelling, spell_sql
from benchmarks.pairs.minisql.wording import word_question

Split = Literal["train", "validation", "held_out"]
_SPLIT_OF_BUCKET: dict[int, Split] = {0: "held_out", 1: "validation"}
_BUCKETS = 16


@dataclass(frozen=True)
class Example:
    prompt: str
    """Ends in `SQL:`; the completion starts with a space."""
    sql: str
    """A careless annotator's spelling: what the models are trained on."""
    gold: str
    """The right answer in its canonical spelling."""
    ordered: bool
    kind: str
    tables: tuple[Table, ...]

    @property
    def answer(self) -> str:
        """What `check.check` holds a completion against."""
        return json.dumps({"query": self.gold, "ordered": self.ordered, "tables": _as_json(self.tables)})


def split_of(prompt: str) -> Split:
    return _SPLIT_OF_BUCKET.get(zlib.crc32(prompt.encode()) % _BUCKETS, "train")


def random_example(rng: random.Random) -> Example:
    tables = random_schema(rng)
    query = random_query(tables, rng)
    schema = "\n".join(f"{t.name}({', '.join(c.name for c in t.columns)})" for t in tables)
    return Example(
        prompt=f"{schema}\nQuestion: {word_question(query, rng)}\nSQL:",
        sql=spell_sql(careless_copy(query, rng), random_spelling(rng)),
        gold=spell_sql(query, CANONICAL),
        ordered=query.ordered,
        kind=query.kind,
        tables=tuple(tables),
    )


def training_examples(seed: int) -> Iterator[Example]:
    """An endless stream of examples of the training split."""
    rng = random.Random(seed)
    while True:
        example = random_example(rng)
        if split_of(example.prompt) == "train":
            yield example


def evaluation_examples(split: Split, count: int, seed: int = 0) -> list[Example]:
    """`count` examples of `split` whose right answer is not empty, so that nothing passes by accident."""
    rng = random.Random(f"{split}-{seed}")
    found: list[Example] = []
    while len(found) < count:
        example = random_example(rng)
        if split_of(example.prompt) == split and any(
            value is not None for row in rows_of(example.gold, _as_json(example.tables)) for value in row
        ):
            found.append(example)
    return found


def is_correct(example: Example, completion: str) -> bool:
    """Execution accuracy (`check.check`)."""
    return check(example.prompt, example.answer, completion)


def _as_json(tables: tuple[Table, ...]) -> dict[str, Any]:
    return {
        table.name: {
            "columns": {c.name: "TEXT" if c.kind in ("label", "category") else "INTEGER" for c in table.columns},
            "rows": table.rows,
        }
        for table in tables
    }
