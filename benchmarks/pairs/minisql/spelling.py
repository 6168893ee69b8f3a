"""`spell_sql` spells a query in SQL.

One query has many right spellings; a careless annotator also writes wrong ones. A spelling is drawn once per query and
kept over its whole text, as a person's habits are: a decoder that chooses tokens one at a time can mix two habits into
a text that is neither.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass

from benchmarks.pairs.minisql.query import Condition, Query
from benchmarks.pairs.minisql.schema import Column, Table


@dataclass(frozen=True)
class Spelling:
    lower_case: bool = False
    alias: str = "none"
    """How columns name their table: none, T1/T2, or the table's name. Joins cannot have none."""
    quote: str = "'"
    not_equal: str = "!="
    count: str = "*"
    join: str = "JOIN"
    write_asc: bool = False
    write_between: bool = True
    superlative: str = "order"
    """order = ORDER BY ... LIMIT 1; subquery = compare with MAX or MIN."""
    flip_join: bool = False


CANONICAL = Spelling()


def random_spelling(rng: random.Random) -> Spelling:
    return Spelling(
        lower_case=rng.random() < 0.25,
        alias=rng.choices(("none", "T", "table"), (0.65, 0.2, 0.15))[0],
        quote=rng.choices("'\"", (0.7, 0.3))[0],
        not_equal=rng.choices(("!=", "<>"), (0.6, 0.4))[0],
        count=rng.choices(("*", "id"), (0.75, 0.25))[0],
        join=rng.choices(("JOIN", "INNER JOIN"), (0.75, 0.25))[0],
        write_asc=rng.random() < 0.35,
        write_between=rng.random() < 0.65,
        superlative=rng.choices(("order", "subquery"), (0.7, 0.3))[0],
        flip_join=rng.random() < 0.3,
    )


# The chance of each slip at a place where it can be made. Single slips stay well below one half, so that
# the most likely text is the right one, and above one tenth, so that nucleus sampling does not remove them.
SLIP_RATES = {
    "boundary": 0.2,  # > for >=
    "forget": 0.2,  # the second condition or column left out
    "column": 0.13,  # the neighbour of the column that was asked for
    "direction": 0.18,  # ascending for descending
    "aggregate": 0.18,  # SUM for AVG, MIN for MAX
    "distinct": 0.2,  # DISTINCT left out
    "having": 0.18,  # at least for more than
}
_OTHER_BOUNDARY = {">": ">=", ">=": ">", "<": "<=", "<=": "<"}
_OTHER_AGGREGATE = {"AVG": "SUM", "SUM": "AVG", "MAX": "MIN", "MIN": "MAX"}


def careless_copy(query: Query, rng: random.Random) -> Query:
    """The query as a careless annotator understood it: each part slips on its own."""
    slip = copy.copy(query)
    slip.conditions = [copy.copy(c) for c in query.conditions]
    for condition in slip.conditions:
        if condition.operator in _OTHER_BOUNDARY and rng.random() < SLIP_RATES["boundary"]:
            condition.operator = _OTHER_BOUNDARY[condition.operator]
    if len(slip.conditions) == 2 and rng.random() < SLIP_RATES["forget"]:
        slip.conditions.pop()
    if len(slip.columns) == 2 and rng.random() < SLIP_RATES["forget"]:
        slip.columns = slip.columns[:1]
    if slip.kind in ("select", "superlative", "join", "join_child") and rng.random() < SLIP_RATES["column"]:
        owner = query.child if query.child and query.kind == "join_child" else query.table
        shown = owner.of("label", "category", "number")
        slip.columns = [shown[(shown.index(slip.columns[0]) + 1) % len(shown)], *slip.columns[1:]]
    if slip.kind in ("superlative", "top", "sort", "most_common") and rng.random() < SLIP_RATES["direction"]:
        slip.descending = not slip.descending
    if slip.aggregate and rng.random() < SLIP_RATES["aggregate"]:
        slip.aggregate = _OTHER_AGGREGATE[slip.aggregate]
    if slip.distinct and rng.random() < SLIP_RATES["distinct"]:
        slip.distinct = False
    if slip.kind == "having" and rng.random() < SLIP_RATES["having"]:
        slip.strict = False
    return slip


def spell_sql(query: Query, spelling: Spelling) -> str:
    """The SQL text of `query`, ending in a semicolon."""
    return _Speller(query, spelling).text()


class _Speller:
    def __init__(self, query: Query, spelling: Spelling) -> None:
        self.query, self.spelling = query, spelling
        self.tables: list[Table] = [query.table] + ([query.child] if query.child else [])
        alias = "T" if query.is_join and spelling.alias == "none" else spelling.alias
        self.aliases = {
            id(t): {"none": "", "T": f"T{i + 1}", "table": t.name}[alias] for i, t in enumerate(self.tables)
        }

    def word(self, keyword: str) -> str:
        return keyword.lower() if self.spelling.lower_case else keyword

    def column(self, table: Table, column: Column | None) -> str:
        assert column is not None
        alias = self.aliases[id(table)]
        return f"{alias}.{column.name}" if alias else column.name

    def named(self, table: Table) -> str:
        alias = self.aliases[id(table)]
        return table.name if alias in ("", table.name) else f"{table.name} {self.word('AS')} {alias}"

    def counted(self, table: Table) -> str:
        inner = "*" if self.spelling.count == "*" else self.column(table, table.key)
        return f"{self.word('COUNT')}({inner})"

    def condition(self, condition: Condition) -> str:
        name, operator = self.column(condition.table, condition.column), condition.operator
        conjunction = self.word("AND")
        if operator == "between":
            if self.spelling.write_between:
                return f"{name} {self.word('BETWEEN')} {condition.value} {conjunction} {condition.upper}"
            return f"{name} >= {condition.value} {conjunction} {name} <= {condition.upper}"
        quote = self.spelling.quote if isinstance(condition.value, str) else ""
        operator = self.spelling.not_equal if operator == "!=" else operator
        return f"{name} {operator} {quote}{condition.value}{quote}"

    def source(self) -> str:
        """FROM ... [JOIN ... ON ...] [WHERE ...]"""
        query, spelling = self.query, self.spelling
        text = f"{self.word('FROM')} {self.named(query.table)}"
        if query.child:
            left = self.column(query.table, query.table.key)
            right = self.column(query.child, query.child.foreign_key)
            left, right = (right, left) if spelling.flip_join else (left, right)
            text += f" {self.word(spelling.join)} {self.named(query.child)} {self.word('ON')} {left} = {right}"
        if query.conditions:
            conjunction = f" {self.word('AND')} "
            text += f" {self.word('WHERE')} " + conjunction.join(self.condition(c) for c in query.conditions)
        return text

    def order(self, by: str) -> str:
        direction = " DESC" if self.query.descending else " ASC" if self.spelling.write_asc else ""
        return f" {self.word('ORDER BY')} {by}{self.word(direction)}"

    def text(self) -> str:
        query = self.query
        select, group = self.word("SELECT"), self.word("GROUP BY")
        limit = f" {self.word('LIMIT')} {query.limit}"
        owner = query.child if query.child and query.kind in ("join_child", "join_aggregate") else query.table
        columns = ", ".join(self.column(owner, c) for c in query.columns)
        by = self.column(query.table, query.by) if query.by else ""
        source, kind = self.source(), query.kind
        if kind in ("select", "join", "join_child"):
            return f"{select} {columns} {source};"
        if kind == "count":
            return f"{select} {self.counted(query.table)} {source};"
        if kind in ("aggregate", "join_aggregate"):
            return f"{select} {self.word(query.aggregate)}({columns}) {source};"
        if kind == "group_count":
            return f"{select} {by}, {self.counted(query.table)} {source} {group} {by};"
        if kind == "group_aggregate":
            return f"{select} {by}, {self.word(query.aggregate)}({columns}) {source} {group} {by};"
        if kind == "superlative" and self.spelling.superlative == "subquery":
            extreme = self.word("MAX" if query.descending else "MIN")
            inner = f"{select} {extreme}({query.by.name if query.by else ''}) {self.word('FROM')} {query.table.name}"
            return f"{select} {columns} {source} {self.word('WHERE')} {by} = ({inner});"
        if kind in ("superlative", "top"):
            return f"{select} {columns} {source}{self.order(by)}{limit};"
        if kind == "sort":
            return f"{select} {columns} {source}{self.order(by)};"
        if kind == "having":
            test = f"{self.counted(query.table)} {'>' if query.strict else '>='} {query.threshold}"
            return f"{select} {by} {source} {group} {by} {self.word('HAVING')} {test};"
        if kind == "distinct":
            distinct = f"{self.word('DISTINCT')} " if query.distinct else ""
            return f"{select} {distinct}{columns} {source};"
        if kind == "most_common":
            return f"{select} {by} {source} {group} {by}{self.order(self.counted(query.table))} {self.word('LIMIT')} 1;"
        assert kind == "join_count", kind
        assert query.child is not None
        key = self.column(query.table, query.table.key)
        return f"{select} {columns}, {self.counted(query.child)} {source} {group} {key};"
