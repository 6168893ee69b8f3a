import pytest

from benchmarks.store import Store


def manifest(num_prompts: int, target: str | None = None) -> dict:
    quality = {"prompt_set": "minisql", "num_prompts": num_prompts, "source": None, "options": [], "chat": False}
    return {"plan": {"models": {"target": target}, "quality": [quality]}, "command": "python -m benchmarks run"}


def test_rows_come_back_in_order(tmp_path):
    store = Store(tmp_path)
    for i in range(3):
        store.add("speed", {"i": i, "text": "γ"})
    assert Store(tmp_path).rows("speed") == [{"i": i, "text": "γ"} for i in range(3)]
    assert store.rows("answers") == []


def test_a_row_that_was_cut_off_is_not_there_and_harms_no_other(tmp_path):
    store = Store(tmp_path)
    store.add("answers", {"i": 0})
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"i": 1, "answers": [[1, 2')
    assert store.rows("answers") == [{"i": 0}]
    store.add("answers", {"i": 1})
    assert store.rows("answers") == [{"i": 0}, {"i": 1}]


def test_packed_rows_are_read_too(tmp_path):
    store = Store(tmp_path)
    for i in range(3):
        store.add("answers", {"i": i})
        store.pack("answers")
    assert [file.name for file in tmp_path.iterdir()] == ["answers.jsonl.gz"]
    store.add("answers", {"i": 3})
    assert store.rows("answers") == [{"i": i} for i in range(4)]


def test_a_folder_of_other_models_or_prompts_is_refused(tmp_path):
    store = Store(tmp_path)
    store.begin(manifest(10))
    store.begin(manifest(10))
    assert len(store.manifests()) == 2
    for other in (manifest(20), manifest(10, target="T")):
        with pytest.raises(ValueError, match="other models or prompts"):
            store.begin(other)
