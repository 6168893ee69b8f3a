"""`random_query` draws a query over a schema: what is asked, before it is worded in English or spelled in SQL."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.pairs.minisql.schema import Column, ColumnKind, Table

QueryKind = Literal[
    "select",  # columns of one table under conditions
    "count",
    "aggregate",
    "group_count",
    "group_aggregate",
    "superlative",  # the row with the largest or smallest number
    "top",  # the n such rows
    "sort",
    "having",
    "distinct",
    "most_common",
    "join",  # columns of the parent, condition on the child
    "join_child",  # columns of the child, condition on the parent
    "join_count",  # children counted per parent
    "join_aggregate",  # aggregate of the child, condition on the parent
]
KIND_WEIGHTS: dict[QueryKind, int] = {
    "select": 4,
    "count": 3,
    "aggregate": 2,
    "group_count": 2,
    "group_aggregate": 2,
    "superlative": 3,
    "top": 1,
    "sort": 1,
    "having": 1,
    "distinct": 1,
    "most_common": 1,
    "join": 2,
    "join_child": 2,
    "join_count": 1,
    "join_aggregate": 1,
}
NEEDS_CATEGORY = frozenset({"group_count", "group_aggregate", "having", "distinct", "most_common"})
COMPARISONS = (">", ">=", "<", "<=", ">", "<", "between", "=")


@dataclass
class Condition:
    table: Table
    column: Column
    operator: str
    value: int | str
    upper: int | str = ""
    """Upper end of a `between`."""


@dataclass
class Query:
    kind: QueryKind
    table: Table
    """The table that is asked about; in joins, the parent."""
    columns: list[Column] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    aggregate: str = ""
    by: Column | None = None
    descending: bool = False
    limit: int = 1
    threshold: int = 0
    """Of `having`: groups with more than so many rows."""
    strict: bool = True
    """Of `having`: more than, not at least."""
    distinct: bool = False
    child: Table | None = None

    @property
    def is_join(self) -> bool:
        return self.child is not None

    @property
    def ordered(self) -> bool:
        """Whether the order of the result's rows is part of the answer."""
        return self.kind in ("sort", "top")


def _random_condition(table: Table, rng: random.Random, kinds: tuple[ColumnKind, ...]) -> Condition:
    column = rng.choice(table.of(*kinds))
    values = sorted(table.values(column))
    if column.kind != "number":
        operator = "!=" if column.kind == "category" and rng.random() < 0.12 else "="
        return Condition(table, column, operator, rng.choice(values))
    operator = rng.choice(COMPARISONS)
    if operator == "between":
        low, high = sorted(rng.sample(values[1:-1], 2))
        return Condition(table, column, operator, low, high)
    # A value that stands in the table: > and >= give different rows.
    return Condition(table, column, operator, values[rng.randint(2, len(values) - 3)])


def random_query(tables: list[Table], rng: random.Random) -> Query:
    """One query whose answer is unambiguous on these rows."""
    while True:
        query = _draw_query(tables, rng)
        if query.kind == "most_common":
            assert query.by is not None
            counts = sorted(Counter(query.table.values(query.by)).values(), reverse=query.descending)
            if len(counts) < 2 or counts[0] == counts[1]:
                continue
        return query


def _draw_query(tables: list[Table], rng: random.Random) -> Query:
    kind = rng.choices(list(KIND_WEIGHTS), list(KIND_WEIGHTS.values()))[0]
    table = rng.choice(tables)
    if kind in NEEDS_CATEGORY and not table.of("category"):
        kind = "superlative"
    if kind.startswith("join"):
        return _draw_join(kind, rng.choice(tables[1:]), rng)
    return _draw_single(kind, table, rng)


def _draw_single(kind: QueryKind, table: Table, rng: random.Random) -> Query:
    numbers, categories = table.of("number"), table.of("category")
    shown = table.of("label", "number", "category")
    query = Query(kind, table)
    if kind == "select":
        query.columns = rng.sample(shown, 2 if rng.random() < 0.3 else 1)
        query.conditions = _random_conditions(table, rng, 2 if rng.random() < 0.25 else 1)
    elif kind == "count":
        query.conditions = _random_conditions(table, rng, 1 if rng.random() < 0.8 else 0)
    elif kind == "aggregate":
        query.aggregate, query.columns = _random_aggregate(rng), [rng.choice(numbers)]
        query.conditions = _random_conditions(table, rng, rng.randint(0, 1), exclude=query.columns)
    elif kind == "group_count":
        query.by = rng.choice(categories)
    elif kind == "group_aggregate":
        query.by, query.aggregate, query.columns = rng.choice(categories), _random_aggregate(rng), [rng.choice(numbers)]
    elif kind == "superlative":
        query.by, query.descending = rng.choice(numbers), rng.random() < 0.55
        query.columns = [table.label if rng.random() < 0.5 else rng.choice([c for c in shown if c is not query.by])]
    elif kind == "top":
        query.by, query.descending, query.limit = rng.choice(numbers), rng.random() < 0.55, rng.randint(2, 5)
        query.columns = [table.label]
    elif kind == "sort":
        query.by, query.descending = rng.choice(numbers), rng.random() < 0.5
        query.columns = [rng.choice([c for c in shown if c is not query.by])]
    elif kind == "having":
        query.by, query.threshold = rng.choice(categories), rng.randint(1, 3)
    elif kind == "distinct":
        query.columns, query.distinct = [rng.choice(categories)], True
    elif kind == "most_common":
        query.by, query.descending = rng.choice(categories), rng.random() < 0.7
    return query


def _draw_join(kind: QueryKind, child: Table, rng: random.Random) -> Query:
    parent = child.parent
    assert parent is not None
    query = Query(kind, parent, child=child)
    if kind == "join":
        query.columns = [rng.choice(parent.of("label", "number", "category"))]
        query.conditions = _random_conditions(child, rng, 1)
    elif kind == "join_child":
        query.columns = [rng.choice(child.of("label", "number", "category"))]
        query.conditions = [_random_condition(parent, rng, ("label", "category", "number"))]
    elif kind == "join_aggregate":
        query.aggregate, query.columns = _random_aggregate(rng), [rng.choice(child.of("number"))]
        query.conditions = [_random_condition(parent, rng, ("label", "category"))]
    else:
        query.columns = [parent.label]
    return query


def _random_conditions(
    table: Table, rng: random.Random, count: int, exclude: list[Column] | None = None
) -> list[Condition]:
    """Up to `count` conditions on different columns of one table."""
    conditions: list[Condition] = []
    used = list(exclude or [])
    for _ in range(count):
        condition = _random_condition(table, rng, ("category", "number"))
        if condition.column not in used:
            conditions.append(condition)
            used.append(condition.column)
    return conditions


def _random_aggregate(rng: random.Random) -> str:
    return rng.choice(("AVG", "AVG", "SUM", "MAX", "MIN"))
