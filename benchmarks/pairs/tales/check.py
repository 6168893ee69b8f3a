"""`check` says whether a tale stays true to its opening.

It is for `vllm-mtad tune --checker benchmarks/pairs/tales/check.py:check`, and needs Python's standard library only, so
that it can be loaded by its path.
"""

from __future__ import annotations

import re

HEROES = {
    "she": "Mira Ada Nora Lena Ines Ruth Vera Olga Tess Iris Maud Zoe".split(),
    "he": "Tom Otto Hugo Karl Finn Emil Axel Rolf Jens Paul Noah Max".split(),
}
TRADES = "baker miller sailor weaver smith shepherd teacher painter gardener fisher carpenter clerk".split()
COMPANIONS = "dog cat goat crow donkey fox mouse duck horse wolf pig hare".split()
THINGS = "ring lamp key coin drum book boat clock kite flute map bell".split()
PLACES = "harbour forest market mill tower bridge cave castle valley island garden desert".split()


def check(prompt: str, answer: str | None, completion: str) -> bool:
    """Whether a completion stays with its opening: it names the hero and the thing, no other hero, trade, companion,
    thing or place, only the hero's pronoun, and it ends with a full stop.
    """
    given = set(re.findall(r"\w+", prompt))
    words = re.findall(r"\w+", completion)
    kinds = (HEROES["she"] + HEROES["he"], TRADES, COMPANIONS, THINGS, PLACES)
    hero, thing = (given.intersection(kind) for kind in (kinds[0], THINGS))
    pronoun = "she" if hero.intersection(HEROES["she"]) else "he"
    others = {"she", "her"} if pronoun == "he" else {"he", "his"}
    return (
        completion.rstrip().endswith(".")
        and bool(hero.intersection(words))
        and bool(thing.intersection(words))
        and not any((set(kind) - given).intersection(words) for kind in kinds)
        and not others.intersection(word.lower() for word in words)
    )
