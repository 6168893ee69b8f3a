"""The suite's prompts and judges, on rows of our own in the real data sets' columns."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.prompt_sets import NAMES, load_prompt_set
from benchmarks.prompt_sets.gsm8k import final_number
from benchmarks.prompt_sets.spider import describe_schema, read_rows, sorts
from tests.benchmarks.sandboxed import sandboxed


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The library, with its cache out of the user's home."""
    library = pytest.importorskip("datasets", reason="pip install '.[bench]'")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return library


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


# The registry


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=f"no prompt set 'sql'; there are: {', '.join(NAMES)}"):
        load_prompt_set("sql", 3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("minisql", 0), "at least 1"),
        (("tales", 3, "x.jsonl"), "has no source"),
        (("plain", 3), "--source"),
        (("gsm8k", 3, "missing/rows.jsonl"), "no file or folder missing/rows.jsonl"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_prompt_set(*arguments)


def test_an_option_of_another_set_is_refused():
    with pytest.raises(ValueError, match="gsm8k has no option 'databases'; it has: none"):
        load_prompt_set("gsm8k", 3, databases="x")


def test_without_a_network_the_remedy_is_named(datasets):
    with pytest.raises(
        ValueError, match=r"(?s)^gsm8k cannot be loaded from nobody/nothing .*with --source\.$"
    ) as refusal:
        load_prompt_set("gsm8k", 2, "nobody/nothing")
    assert "\n" not in str(refusal.value)


def test_a_missing_column_and_a_missing_split_are_named(tmp_path, datasets):
    rows = jsonl(tmp_path / "rows.jsonl", [{"question": "1 + 1?", "solution": "#### 2"}])
    with pytest.raises(ValueError, match=r"column 'answer', but .*: question, solution"):
        load_prompt_set("gsm8k", 1, rows)
    jsonl(tmp_path / "folder" / "train.jsonl", [{"question": "1 + 1?", "answer": "#### 2"}])
    with pytest.raises(ValueError, match=r"split 'test', but .* only: train"):
        load_prompt_set("gsm8k", 1, str(tmp_path / "folder"))


# The bundled sets


@pytest.mark.parametrize("name", ["minisql", "tales"])
def test_bundled_sets_are_seeded_and_judged(name):
    prompts = load_prompt_set(name, 5)
    assert prompts.prompts == load_prompt_set(name, 5).prompts
    assert len(set(prompts.prompts)) == 5
    assert prompts.judge(0, "nothing of the kind") is False


def test_bundled_sets_accept_their_own_answers():
    minisql, tales = load_prompt_set("minisql", 5), load_prompt_set("tales", 5)
    assert all(minisql.judge(i, f" {example.gold}") for i, example in enumerate(minisql.examples))
    assert all(tales.judge(i, f" {tale.text}") for i, tale in enumerate(tales.tales))


# GSM8K


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2 * 6 = <<2*6=12>>12\n#### 12", "12"),
        ("#### 1,234,567", "1234567"),
        ("#### $18.00 and then some 7", "18"),
        ("#### -3", "-3"),
        ("so it is $-4.50.", "-4.5"),
        ("10-3=7.", "7"),
        ("the range is 3-4", "4"),
        ("1, 2 and 3", "3"),
        ("a share of .25", "0.25"),
    ],
)
def test_final_number_is_found_and_normalised(text, number):
    assert final_number(text) == final_number(number)


@pytest.mark.parametrize("text", ["", "none at all", "5 apples\n#### none"])
def test_no_final_number_is_none(text):
    assert final_number(text) is None


GSM8K_ROWS = [
    {"question": f"Ben has {n} nuts and gets 1000 more. How many?", "answer": f"{n} + 1000 = {n + 1000}\n#### 1,00{n}"}
    for n in range(1, 10)
]


def test_gsm8k_judges_the_final_number(tmp_path, datasets):
    prompts = load_prompt_set("gsm8k", 1, jsonl(tmp_path / "rows.jsonl", GSM8K_ROWS[:1]))
    assert prompts.prompts[0].endswith("\n\nQuestion: Ben has 1 nuts and gets 1000 more. How many?\nAnswer:")
    for right in ("#### 1001", " It is $1,001.00.", "1 + 1000 = 1001\n#### 1001\nQuestion: 7?\nAnswer: 8"):
        assert prompts.judge(0, right) is True
    for wrong in ("", "#### 1002", "1001 nuts\n#### 1000", "no idea", "It is 1001, no, 1010."):
        assert prompts.judge(0, wrong) is False


def test_gsm8k_shows_examples_of_the_train_split_only(tmp_path, datasets):
    train = [{"question": f"Train {n}?", "answer": f"<<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}"} for n in range(20)]
    jsonl(tmp_path / "copy" / "main" / "train.jsonl", train)
    jsonl(tmp_path / "copy" / "main" / "test.jsonl", GSM8K_ROWS)
    prompts = load_prompt_set("gsm8k", 4, str(tmp_path / "copy"))
    assert len(prompts.prompts) == 4
    for prompt in prompts.prompts:
        assert len(re.findall(r"Question: Train", prompt)) == 4
        assert len(re.findall(r"Question: Ben", prompt)) == 1
        assert "<<" not in prompt


def test_a_sample_is_the_same_each_time_and_never_more_than_there_is(tmp_path, datasets):
    parquet = tmp_path / "rows.parquet"
    datasets.Dataset.from_list(GSM8K_ROWS).to_parquet(str(parquet))
    assert load_prompt_set("gsm8k", 5, str(parquet)).prompts == load_prompt_set("gsm8k", 5, str(parquet)).prompts
    assert len(load_prompt_set("gsm8k", 99, str(parquet)).prompts) == len(GSM8K_ROWS)


# HumanEval

HUMANEVAL_ROW = {
    "task_id": "Own/0",
    "prompt": 'from typing import List\n\n\ndef largest(values: List[int]) -> int:\n    """The largest value."""\n',
    "canonical_solution": "    return max(values)\n",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 5, 2]) == 5\n"
    "    assert candidate([-1]) == -1\n",
    "entry_point": "largest",
}


def test_humaneval_is_refused_without_its_flag():
    with pytest.raises(ValueError, match=r"^humaneval executes code .*--execute-generated-code permits it\.$"):
        load_prompt_set("humaneval", 1)


@sandboxed
def test_humaneval_runs_the_answer_against_its_tests(tmp_path, datasets):
    source = jsonl(tmp_path / "rows.jsonl", [HUMANEVAL_ROW])
    prompts = load_prompt_set("humaneval", 1, source, allow_execution=True)
    assert prompts.prompts == [HUMANEVAL_ROW["prompt"]]
    canonical = HUMANEVAL_ROW["canonical_solution"]
    for right in (
        canonical,
        canonical + "\ndef other(:",
        canonical + "\n```\nSo this",
        "    return sorted(values)[-1]",
    ):
        assert prompts.judge(0, right) is True, right
    for wrong in ("", "    return 5\n", "    return values[", "    import sys; sys.exit(0)\n", '    """', "    pass\n"):
        assert prompts.judge(0, wrong) is False, wrong


# Spider


@pytest.fixture
def databases(tmp_path):
    folder = tmp_path / "databases" / "garden"
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "garden.sqlite")) as database, database:
        database.executescript(
            """
            CREATE TABLE bed (id INTEGER PRIMARY KEY, name TEXT, area REAL);
            CREATE TABLE plant (id INTEGER PRIMARY KEY, bed_id INTEGER REFERENCES bed(id), name TEXT, height REAL);
            INSERT INTO bed VALUES (1, 'south', 2.5), (2, 'north', 1.5);
            INSERT INTO plant VALUES (1, 1, 'rose', 0.1), (2, 1, 'lily', 0.2), (3, 2, 'rose', 0.3), (4, 2, 'ivy', NULL);
            """
        )
    return tmp_path / "databases"


QUERIES = [
    "SELECT name FROM plant",
    "SELECT name FROM plant ORDER BY id DESC",
    "SELECT sum(height) FROM plant",
    "SELECT name FROM bed WHERE id IN (SELECT bed_id FROM plant ORDER BY height LIMIT 2)",
]


@pytest.fixture
def spider(tmp_path, databases, datasets):
    rows = [
        {"db_id": "garden", "query": query, "question": f"Question {n}?", "query_toks": query.split()}
        for n, query in enumerate(QUERIES)
    ]
    return load_prompt_set("spider", 9, jsonl(tmp_path / "rows.jsonl", rows), databases=str(databases))


def test_spider_needs_its_databases(tmp_path):
    for missing in (None, str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match="spider needs its databases"):
            load_prompt_set("spider", 1, databases=missing)


def test_spider_names_the_database_that_a_row_lacks(tmp_path, databases, datasets):
    rows = jsonl(tmp_path / "rows.jsonl", [{"db_id": "harbour", "query": "SELECT 1", "question": "?"}])
    with pytest.raises(ValueError, match=r"SELECT 1.*harbour\.sqlite"):
        load_prompt_set("spider", 1, rows, databases=str(databases))


def test_spider_takes_the_schema_from_the_database(spider, databases):
    schema = describe_schema(databases / "garden" / "garden.sqlite")
    assert schema.split("\n") == [
        "bed(id INTEGER, name TEXT, area REAL)",
        "plant(id INTEGER, bed_id INTEGER, name TEXT, height REAL)",
        "Foreign keys: plant.bed_id = bed.id",
    ]
    assert schema in spider.prompts[0]
    assert spider.prompts[0].endswith("Question: Question 0?\nSQL:")


def test_spider_accepts_other_queries_with_the_same_rows(spider):
    assert all(spider.judge(n, f" {query};") for n, query in enumerate(QUERIES))
    assert spider.judge(0, " SELECT T1.name FROM plant AS T1 ORDER BY height; SELECT 1")
    assert spider.judge(0, "```sql\nSELECT name FROM plant\n```\nThis lists them.")
    assert spider.judge(2, " SELECT sum(height) + 0.00000001 FROM plant")


@pytest.mark.parametrize(
    ("index", "answer"),
    [
        (0, "SELECT DISTINCT name FROM plant"),
        (0, "SELECT name FROM plant UNION ALL SELECT name FROM bed"),
        (0, "SELECT id FROM plant"),
        (1, "SELECT name FROM plant ORDER BY id"),
        (1, "SELECT name FROM plant"),
        (2, "SELECT sum(height) + 0.01 FROM plant"),
        (0, ""),
        (0, "not sql"),
        (0, "SELECT '\0'"),
        (0, "PRAGMA table_info(plant)"),
    ],
)
def test_spider_refuses_other_rows(spider, index, answer):
    assert spider.judge(index, answer) is False


def test_a_query_that_writes_is_wrong_and_writes_nothing(spider, databases, tmp_path):
    file = databases / "garden" / "garden.sqlite"
    before = file.read_bytes()
    for attempt in (
        "DELETE FROM plant RETURNING name",
        "INSERT INTO bed VALUES (9, 'west', 1)",
        "DROP TABLE plant",
        "PRAGMA journal_mode = wal",
        f"ATTACH DATABASE '{tmp_path / 'new.sqlite'}' AS new",
        f"VACUUM INTO '{tmp_path / 'new.sqlite'}'",
        "CREATE TEMP TABLE t AS SELECT name FROM plant",
    ):
        assert spider.judge(0, attempt) is False
    assert file.read_bytes() == before
    assert not (tmp_path / "new.sqlite").exists()


def test_a_query_without_end_is_stopped(databases, monkeypatch):
    monkeypatch.setattr("benchmarks.prompt_sets.spider.TIME_LIMIT", 0.5)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        read_rows(databases / "garden" / "garden.sqlite", endless)


def test_a_huge_value_is_refused(databases):
    with pytest.raises((sqlite3.DataError, sqlite3.OperationalError)):
        read_rows(databases / "garden" / "garden.sqlite", "SELECT randomblob(900000000)")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT a FROM t ORDER  BY a", True),
        ("SELECT a FROM t UNION SELECT b FROM t order by 1", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY b)", False),
        ("SELECT rank() OVER (PARTITION BY (a) ORDER BY b) FROM t", False),
        ("SELECT 'order by' FROM t WHERE \"order by\" = ')('", False),
        ("SELECT a FROM t -- order by a", False),
    ],
)
def test_only_an_order_at_the_top_level_counts(sql, expected):
    assert sorts(sql) is expected


# MT-Bench


def test_mt_bench_asks_first_turns_and_leaves_the_judging_to_others(tmp_path, datasets):
    rows = [
        {"prompt_id": 7, "category": "writing", "prompt": ["Praise a spoon.", "Now in verse."], "reference": []},
        {"prompt_id": 8, "category": "math", "prompt": ["What is 2 + 3?", "Twice that?"], "reference": ["5", "10"]},
    ]
    prompts = load_prompt_set("mt_bench", 5, jsonl(tmp_path / "rows.jsonl", rows))
    assert prompts.prompts == ["Praise a spoon.", "What is 2 + 3?"]
    assert prompts.records == rows
    assert prompts.judged_by == ""
    assert prompts.judge(0, "Shiny!") is None


# A user's own file


def test_plain_reads_a_users_file(tmp_path):
    rows = [{"prompt": "One\ntwo", "answer": "3"}, {"prompt": "Ünï", "tag": 1}]
    assert load_prompt_set("plain", 9, jsonl(tmp_path / "own.jsonl", rows)).prompts == ["One\ntwo", "Ünï"]
    (tmp_path / "own.txt").write_bytes("\ufeffFirst\r\n\n  Second\n".encode())
    prompts = load_prompt_set("plain", 9, str(tmp_path / "own.txt"), max_tokens=8)
    assert prompts.prompts == ["First", "  Second"]
    assert (prompts.max_tokens, prompts.judge(0, "x")) == (8, None)
