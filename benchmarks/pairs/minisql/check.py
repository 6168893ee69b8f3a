"""`check` says whether an answer in MiniSQL is right.

It is for `vllm-mtad tune --checker benchmarks/pairs/minisql/check.py:check`, and needs Python's standard library only,
so that it can be loaded by its path.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

_MAX_ROWS = 2000


def check(prompt: str, answer: str | None, completion: str) -> bool:
    """Execution accuracy: whether the completion, up to its first semicolon, returns the rows of the right query.

    The order of the rows counts only where the question asks for one.

    Args:
        answer: a JSON object with the right `query`, whether it is `ordered`, and the `tables`, by name, each with
            the types of its `columns`, by name, and its `rows`.
    """
    asked = json.loads(answer or "{}")
    try:
        rows = rows_of(completion.split(";")[0].strip(), asked["tables"])
    except (sqlite3.Error, sqlite3.Warning):
        return False
    right = rows_of(asked["query"], asked["tables"])
    return rows == right if asked["ordered"] else sorted(rows, key=repr) == sorted(right, key=repr)


def rows_of(query: str, tables: dict[str, Any]) -> list[tuple]:
    """What `query` returns in an SQLite database that holds `tables`; floats are rounded to six decimals."""
    database = sqlite3.connect(":memory:")
    try:
        for name, table in tables.items():
            columns = ", ".join(f'"{column}" {kind}' for column, kind in table["columns"].items())
            database.execute(f'CREATE TABLE "{name}" ({columns})')
            places = ", ".join("?" * len(table["columns"]))
            database.executemany(f'INSERT INTO "{name}" VALUES ({places})', table["rows"])
        database.execute("PRAGMA query_only = ON")
        found = database.execute(query).fetchmany(_MAX_ROWS)
    finally:
        database.close()
    return [tuple(round(value, 6) if isinstance(value, float) else value for value in row) for row in found]
