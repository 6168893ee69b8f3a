"""MiniSQL examples: a prompt, the SQL that an annotator wrote, and a database to check any answer on.

The generator is unlimited. A prompt's split is a function of its text, so an example that is held out can
never be trained on, whatever seed drew it.
"""

from __future__ import annotations

import random
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vllm_mtad.pair.minisql.query import random_query
from vllm_mtad.pair.minisql.schema import Table, random_schema
from vllm_mtad.pair.minisql.spelling import CANONICAL, careless_copy, random_spelling, spell_sql
from vllm_mtad.pair.minisql.wording import word_question

Split = Literal["train", "validation", "held_out"]
_SPLIT_OF_BUCKET: dict[int, Split] = {0: "held_out", 1: "validation"}
_BUCKETS = 16
_MAX_RESULT_ROWS = 2000


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
        if split_of(example.prompt) == split and any(v is not None for row in _gold_rows(example) for v in row):
            found.append(example)
    return found


def build_database(tables: tuple[Table, ...]) -> sqlite3.Connection:
    """An in-memory SQLite database that holds `tables`."""
    database = sqlite3.connect(":memory:")
    for table in tables:
        columns = ", ".join(
            f'"{c.name}" {"TEXT" if c.kind in ("label", "category") else "INTEGER"}' for c in table.columns
        )
        database.execute(f'CREATE TABLE "{table.name}" ({columns})')
        places = ", ".join("?" * len(table.columns))
        database.executemany(f'INSERT INTO "{table.name}" VALUES ({places})', table.rows)
    database.execute("PRAGMA query_only = ON")
    return database


def is_correct(example: Example, completion: str) -> bool:
    """Execution accuracy: whether the completion, up to its first semicolon, returns the right rows.

    The order of the rows counts only where the question asks for one.
    """
    database = build_database(example.tables)
    try:
        rows = _rounded(database.execute(completion.split(";")[0].strip()).fetchmany(_MAX_RESULT_ROWS))
    except (sqlite3.Error, sqlite3.Warning):
        return False
    finally:
        database.close()
    gold = _gold_rows(example)
    return rows == gold if example.ordered else sorted(rows, key=repr) == sorted(gold, key=repr)


def _gold_rows(example: Example) -> list[tuple]:
    database = build_database(example.tables)
    try:
        return _rounded(database.execute(example.gold).fetchmany(_MAX_RESULT_ROWS))
    finally:
        database.close()


def _rounded(rows: list[tuple]) -> list[tuple]:
    return [tuple(round(v, 6) if isinstance(v, float) else v for v in row) for row in rows]
