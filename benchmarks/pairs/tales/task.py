"""Tales is an unlimited, seeded set of short open-ended stories, where many continuations are good.

MiniSQL asks for one right answer; a tale is free in its plot and its words, and bound only by its opening: whom it is
about, who comes along, what is lost and where. So its text has a high entropy, on which likelihood has room to move,
and whether it stayed true to the opening can still be checked.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.pairs.minisql.task import Split, split_of
from benchmarks.pairs.tales.check import COMPANIONS, HEROES, PLACES, THINGS, TRADES, check

MOODS = (
    "happy sad tired brave worried proud lonely calm grumpy curious hungry patient silent nervous merry stubborn"
    " gentle jealous hopeful dreamy"
).split()
WEATHERS = "rain snow wind fog heat thunder frost sunshine storm mist hail drizzle moonlight darkness dust ice".split()
TIMES = (
    "one morning,one evening,at noon,late at night,early in spring,in the middle of winter,before dawn,on a holiday,"
    "after the harvest,last summer,long ago,at the new year"
).split(",")
LOOKS = (
    "small shiny broken heavy golden painted wooden strange silver crooked dusty round green hidden noble tiny cracked"
    " famous plain secret"
).split()
MANNERS = (
    "slowly quickly quietly bravely gladly sadly carefully suddenly wisely loudly politely secretly proudly gently"
    " clumsily patiently"
).split()
HELPERS = (
    "stranger king child widow soldier monk thief doctor giant ghost hunter prince beggar witch judge piper farmer"
    " knight"
).split()
GIFTS = (
    "bread,a rope,warm soup,a candle,good advice,a pear,three nuts,a song,a blanket,some honey,dry socks,a needle,"
    "red wine,salt,a mirror,fresh cheese"
).split(",")

# {she}, {her}, {hero}, {trade}, {pet}, {thing} and {place} keep their value over a tale; the other names are drawn at
# each place. A sentence is one of its stage's.
STAGES: tuple[tuple[str, ...], ...] = (
    (
        "{time} {hero} the {trade} lost a {look} {thing} in the {mood} {place}.",
        "{hero} was a {mood} and {mood} {trade} who owned a {look} {thing}, until it vanished near the {place}.",
        "once there was a {mood} {trade} called {hero}, and {she} dreamed of the {look} {thing} of the {place}.",
        "{time} a {mood} {helper} stole the {look} {thing} from {hero} and ran {manner} to the {place}.",
        "{hero} heard {time} that a {look} {thing} lay in the {place}, lost by a {mood} {helper}.",
    ),
    (
        "{she} called the {mood} {pet} and went out {manner} into the {weather}.",
        "the {pet} was {mood}, but {she} packed {gift} and {gift} and left {time}.",
        "with the {mood} {pet} at {her} side {she} walked {manner} through the {weather}.",
        "nobody but the {mood} {pet} wanted to come, so they left {manner}.",
        "{she} sold {gift}, kissed a {mood} {helper}, and left {manner} with the {pet}.",
    ),
    (
        "on the way they met a {mood} {helper} who asked {manner} for {gift}.",
        "the {weather} turned to {weather}, and the {pet} became {mood} and {mood}.",
        "a {mood} {helper} sat by a {look} road and said {manner}, the {thing} is not far.",
        "then the {weather} came, and {hero} felt {mood}, {mood} and {mood}.",
        "they slept under a {look} tree and {she} dreamed {manner} of a {look} {thing}.",
    ),
    (
        "{hero} gave away {gift} and {gift}, and a {mood} {helper} showed the {look} path to the {place}.",
        "{she} shared {gift} {manner} with the {pet} and they went on through the {weather}.",
        "the {pet} looked {mood}, for the {look} {place} was still far away.",
        "{hero} sang {manner} of {gift} until the {weather} was over.",
    ),
    (
        "in the {look} {place} {she} searched {manner}, but a {mood} {helper} stood in the way.",
        "at last they reached the {look} {place}, and the {pet} ran {manner} ahead.",
        "the {place} was full of {weather} and {weather}, and a {look} door was closed.",
        "a {mood} {helper} guarded the {place} {manner} and wanted {gift} for the {thing}.",
    ),
    (
        "{she} opened a {look} box {manner}, and there was the {look} {thing}.",
        "the {mood} {pet} found the {thing} under a {look} stone.",
        "{hero} asked {manner}, and the {mood} {helper} gave back the {look} {thing}.",
        "the {thing} lay in the {weather}, more {look} than before.",
    ),
    (
        "so {hero} the {trade} came home {mood}, and the {pet} got {gift} and {gift}.",
        "they all ate {gift} {manner}, and {hero} was never {mood} again.",
        "{she} gave the {thing} {manner} to a {mood} {helper} and went home with the {pet}.",
        "and when the {weather} comes to the {place}, {hero} still tells this {look} tale.",
    ),
)
_SKIPPABLE = (2, 3)
_DRAWN = {
    "mood": MOODS,
    "weather": WEATHERS,
    "time": TIMES,
    "look": LOOKS,
    "manner": MANNERS,
    "helper": HELPERS,
    "gift": GIFTS,
}


@dataclass(frozen=True)
class Tale:
    prompt: str
    """Ends in `Tale:`; the completion starts with a space."""
    text: str


class _Words(dict):
    """Draws a word for each name that the tale does not keep: a few words often, the others seldom. Which ones, is the
    taste of the hero's trade; a model that knows it agrees better with the text than one that does not.
    """

    def __init__(self, kept: dict[str, str], rng: random.Random) -> None:
        super().__init__(kept)
        self.rng, self.taste = rng, TRADES.index(kept["trade"])

    def __missing__(self, name: str) -> str:
        words = _DRAWN[name]
        favourite = self.taste * len(words) // len(TRADES)
        rank = self.rng.choices(range(len(words)), [1 / (1 + rank) for rank in range(len(words))])[0]
        return words[(favourite + rank) % len(words)]


def random_tale(rng: random.Random) -> Tale:
    pronoun = rng.choice(sorted(HEROES))
    kept = {
        "she": pronoun,
        "her": {"she": "her", "he": "his"}[pronoun],
        "hero": rng.choice(HEROES[pronoun]),
        "trade": rng.choice(TRADES),
        "pet": rng.choice(COMPANIONS),
        "thing": rng.choice(THINGS),
        "place": rng.choice(PLACES),
    }
    sentences = []
    for number, stage in enumerate(STAGES):
        if number in _SKIPPABLE and rng.random() < 0.3:
            continue
        sentence = rng.choice(stage).format_map(_Words(kept, rng))
        sentences.append(sentence[0].upper() + sentence[1:])
    opening = f"{kept['hero']} the {kept['trade']}, with a {kept['pet']}: the {kept['thing']} of the {kept['place']}"
    return Tale(f"{opening}\nTale:", " ".join(sentences))


def training_tales(seed: int) -> Iterator[Tale]:
    """An endless stream of tales whose opening is of the training split."""
    rng = random.Random(seed)
    while True:
        tale = random_tale(rng)
        if split_of(tale.prompt) == "train":
            yield tale


def evaluation_tales(split: Split, count: int, seed: int = 0) -> list[Tale]:
    """`count` tales of `split`, all with another opening."""
    rng = random.Random(f"{split}-{seed}")
    found: dict[str, Tale] = {}
    while len(found) < count:
        tale = random_tale(rng)
        if split_of(tale.prompt) == split:
            found.setdefault(tale.prompt, tale)
    return list(found.values())


def is_consistent(tale: Tale, completion: str) -> bool:
    """Whether a completion stays with its opening (`check.check`)."""
    return check(tale.prompt, None, completion)
