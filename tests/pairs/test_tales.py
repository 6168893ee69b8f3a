import random
from itertools import islice

import pytest

from benchmarks.pairs.tales.task import COMPANIONS, evaluation_tales, is_consistent, random_tale, training_tales

TALES = evaluation_tales("held_out", 300)


def test_the_generators_own_tales_are_consistent():
    assert all(is_consistent(tale, tale.text) for tale in TALES)


def test_no_name_in_a_template_is_left_unfilled():
    assert not any("{" in tale.text or "{" in tale.prompt for tale in TALES)


def test_the_same_seed_gives_the_same_tales():
    assert random_tale(random.Random(3)) == random_tale(random.Random(3))
    assert evaluation_tales("held_out", 20) == TALES[:20]


def test_held_out_openings_are_never_trained_on():
    held_out = {tale.prompt for tale in TALES}
    assert held_out.isdisjoint(tale.prompt for tale in islice(training_tales(1), 5000))


def test_openings_differ():
    assert len({tale.prompt for tale in TALES}) == len(TALES)


@pytest.mark.parametrize("kind", ["another companion", "another hero", "wrong pronoun", "no end", "no hero"])
def test_what_leaves_the_opening_is_not_consistent(kind):
    tale = next(t for t in TALES if " he " in t.text and "Tom" not in t.prompt)
    given = next(pet for pet in COMPANIONS if f"a {pet}" in tale.prompt)
    hero = tale.prompt.split()[0]
    changed = {
        "another companion": tale.text.replace(given, next(pet for pet in COMPANIONS if pet != given)),
        "another hero": tale.text + " Tom went home.",
        "wrong pronoun": tale.text.replace(" he ", " she "),
        "no end": tale.text.rstrip("."),
        "no hero": tale.text.replace(hero, "Somebody"),
    }[kind]
    assert changed != tale.text
    assert not is_consistent(tale, changed)
