"""Spider asks questions over real databases, to be answered in SQL and judged by execution.

Yu et al. 2018, https://huggingface.co/datasets/xlangai/spider: columns `db_id`, `query`, `question`. The databases are
not on the hub; they are the folder `database` of the archive at https://yale-lily.github.io/spider.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.prompt_sets.base import PromptSet, cut_at_stop
from benchmarks.prompt_sets.rows import Rows

TIME_LIMIT = 10.0
"""Seconds that one query may run."""
_CHECK_EVERY = 10_000
_MAX_VALUE_BYTES = 16 << 20
_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^]]*\]|--[^\n]*|/\*.*?\*/""", re.DOTALL)
_FENCED = re.compile(r"^\s*```(?:\w+)?\n(.*?)(?:```|$)", re.DOTALL)

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Question:
    database: Path
    gold: list[Row]
    ordered: bool
    """Whether the gold query asks for an order at its top level."""


class Spider(PromptSet):
    name = "spider"
    max_tokens = 192
    stop = (";", "\nQuestion:")
    judged_by = (
        "The query returns the gold query's rows, as a multiset, or in order where the gold query sorts; the order of "
        "the columns counts, floats are rounded to 6 places."
    )

    def __init__(self, count: int, source: str | None = None, databases: str | Path | None = None) -> None:
        if databases is None or not Path(databases).expanduser().is_dir():
            raise ValueError(
                f"spider needs its databases, a folder with DB_ID/DB_ID.sqlite, and `databases` is {databases}; they "
                "come with the archive at https://yale-lily.github.io/spider."
            )
        folder = Path(databases).expanduser()
        rows = Rows(self.name, source or "xlangai/spider", "validation", "spider")
        self.questions: list[Question] = []
        self.prompts = []
        for row in rows.sample(count, ("db_id", "query", "question")):
            database = folder / row["db_id"] / f"{row['db_id']}.sqlite"
            try:
                self.prompts.append(f"{_heading(database)}\n\nQuestion: {row['question'].strip()}\nSQL:")
                gold = read_rows(database, row["query"])
            except (sqlite3.Error, sqlite3.Warning) as error:
                raise ValueError(f"spider cannot run its own query '{row['query']}' on {database}: {error}.") from error
            self.questions.append(Question(database, gold, sorts(row["query"])))

    def judge(self, index: int, completion: str) -> bool:
        question = self.questions[index]
        fenced = _FENCED.match(completion)
        sql = cut_at_stop(fenced[1] if fenced else completion, self.stop).strip()
        try:
            rows = read_rows(question.database, sql, len(question.gold) + 1)
        except (sqlite3.Error, sqlite3.Warning, ValueError):  # ValueError: a NUL or a lone surrogate in the query
            return False
        return rows == question.gold if question.ordered else Counter(rows) == Counter(question.gold)


def read_rows(database: Path, sql: str, at_most: int | None = None) -> list[Row]:
    """The rows of a query that can only read and that stops after `TIME_LIMIT`. Raises sqlite3.Error for any other."""
    deadline = time.monotonic() + TIME_LIMIT
    with closing(_open(database)) as connection:
        # mode=ro does not cover ATTACH, which would make a new file.
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _CHECK_EVERY)
        # One value is made between two calls of the progress handler, however large.
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
        cursor = connection.execute(sql)
        rows = cursor.fetchall() if at_most is None else cursor.fetchmany(at_most)
    return [tuple(round(v, 6) if isinstance(v, float) else v for v in row) for row in rows]


def sorts(sql: str) -> bool:
    """Whether a query has an ORDER BY outside all brackets, so not in a subquery or a window."""
    bare, brackets = _QUOTED.sub(" ", sql), 1
    while brackets:
        bare, brackets = re.subn(r"\([^()]*\)", " ", bare)
    return re.search(r"\border\s+by\b", bare, re.IGNORECASE) is not None


def describe_schema(database: Path) -> str:
    """`table(column TYPE, ...)` on a line each, then the foreign keys, as the SQLite file itself has them."""
    with closing(_open(database)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid").fetchall()
        lines, keys = [], []
        for (table,) in tables:
            if table.startswith("sqlite_"):  # SQLite's own
                continue
            columns = connection.execute("SELECT name, type FROM pragma_table_info(?)", (table,)).fetchall()
            lines.append(f"{table}({', '.join(f'{name} {kind}'.strip() for name, kind in columns)})")
            references = connection.execute('SELECT "from", "table", "to" FROM pragma_foreign_key_list(?)', (table,))
            # Without a named column a key refers to the other table's primary key.
            keys += [f"{table}.{own} = {other}{f'.{column}' if column else ''}" for own, other, column in references]
    return "\n".join([*lines, *([f"Foreign keys: {', '.join(keys)}"] if keys else [])])


def _heading(database: Path) -> str:
    return f"Write one SQLite query that answers the question.\n\n{describe_schema(database)}"


def _open(database: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
    connection.text_factory = lambda raw: raw.decode(errors="replace")  # some of Spider's text is not UTF-8
    return connection
