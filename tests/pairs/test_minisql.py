"""The text-to-SQL task: every spelling is right, slips are mostly wrong, and splits do not meet."""

import random
from itertools import islice

import pytest

from benchmarks.pairs.minisql.query import random_query
from benchmarks.pairs.minisql.schema import random_schema
from benchmarks.pairs.minisql.spelling import CANONICAL, random_spelling, spell_sql
from benchmarks.pairs.minisql.task import (
    Example,
    evaluation_examples,
    is_correct,
    random_example,
    split_of,
    training_examples,
)


def test_every_spelling_of_a_query_gives_the_same_rows():
    rng = random.Random(3)
    for _ in range(300):
        tables = random_schema(rng)
        query = random_query(tables, rng)
        example = Example("", "", spell_sql(query, CANONICAL), query.ordered, query.kind, tuple(tables))
        for _ in range(3):
            sql = spell_sql(query, random_spelling(rng))
            assert is_correct(example, sql), (sql, example.gold)


def test_annotators_slip_but_are_mostly_right():
    rng = random.Random(4)
    examples = [random_example(rng) for _ in range(1500)]
    share = sum(is_correct(e, e.sql) for e in examples) / len(examples)
    assert 0.75 < share < 0.9
    assert len({e.kind for e in examples}) == 15


@pytest.mark.parametrize("wrong", ["", "SELECT", "SELECT nothing FROM nowhere;", "DROP TABLE x;", "not sql at all"])
def test_nonsense_is_wrong_and_harms_nothing(wrong):
    example = evaluation_examples("held_out", 1)[0]
    assert not is_correct(example, wrong)
    assert is_correct(example, " " + example.gold + " and then some")


def test_order_counts_only_where_the_question_asks_for_one():
    ordered = next(e for e in evaluation_examples("held_out", 60) if e.kind == "sort")
    unordered = next(e for e in evaluation_examples("held_out", 60) if e.kind == "select")
    reverse = ordered.gold.replace(" DESC;", ";") if "DESC" in ordered.gold else ordered.gold.replace(";", " DESC;")
    assert not is_correct(ordered, reverse)
    assert is_correct(unordered, unordered.gold.replace(";", " ORDER BY id DESC;"))


def test_splits_do_not_meet_and_are_seeded():
    held_out = evaluation_examples("held_out", 50)
    assert [e.prompt for e in held_out] == [e.prompt for e in evaluation_examples("held_out", 50)]
    assert {split_of(e.prompt) for e in held_out} == {"held_out"}
    assert {split_of(e.prompt) for e in islice(training_examples(9), 300)} == {"train"}
    assert {split_of(e.prompt) for e in evaluation_examples("validation", 20)} == {"validation"}
