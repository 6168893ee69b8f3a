"""Random configurations end in an engine configuration or in one sentence; `benchmarks.fuzz` also starts engines."""

import random

from benchmarks.fuzz import FIELDS, OPTIONS, draw_combination, front_end


def test_each_is_accepted_or_refused_in_a_sentence():
    generator, accepted, refused = random.Random(7), 0, set()
    for _ in range(200):
        sentence = front_end(draw_combination(generator))
        accepted += sentence is None
        refused.add(sentence)
    assert accepted > 20
    assert len(refused) > 20, "the values that are drawn are refused in few ways"


def test_each_value_is_drawn():
    generator = random.Random(7)
    drawn = [draw_combination(generator) for _ in range(3000)]
    for name, values in FIELDS.items():
        assert {str(c.fields[name]) for c in drawn if name in c.fields} == set(map(str, values))
    for name, values in OPTIONS.items():
        assert {str(c.options[name]) for c in drawn if name in c.options} >= set(map(str, values))
