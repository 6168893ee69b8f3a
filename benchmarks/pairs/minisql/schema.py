"""`random_schema` draws relational schemas and rows: the world that a MiniSQL question is asked about."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

ColumnKind = Literal["key", "label", "category", "number", "foreign_key"]

COUNTRIES = "France Japan Brazil Canada Kenya India Norway Egypt Chile Spain".split()
CITIES = "Paris Tokyo Lima Oslo Cairo Madrid Berlin Dublin Boston Denver".split()
COLORS = "red blue green black white silver yellow purple".split()
GENRES = "rock jazz drama comedy horror classical fantasy history".split()
STATUSES = "active closed pending retired open approved".split()
LEVELS = "junior senior expert beginner advanced".split()
MATERIALS = "steel wood glass copper plastic cotton".split()
LANGUAGES = "English French Hindi Arabic German Spanish".split()
DEPARTMENTS = "Sales Finance Research Legal Support Marketing".split()
PEOPLE = (
    "Alice Bruno Carla Elena Farid Grace Hugo Irene Jonas Kira Leo Mina Nadia Oscar Petra Quinn "
    "Rosa Sven Tara Umar Vera Walter Yusuf Zoe"
).split()


@dataclass(frozen=True)
class Attribute:
    """What a column can stand for: its possible names, the words people use for it, its values."""

    kind: ColumnKind
    names: tuple[str, ...]
    phrases: tuple[str, ...]
    values: Sequence[int | str]
    superlatives: tuple[str, str] | None = None
    """(word for the largest, word for the smallest), where English has them."""


def _category(names: str, phrases: str, values: list[str]) -> Attribute:
    return Attribute("category", tuple(names.split()), tuple(phrases.split()), tuple(values))


def _number(names: str, phrases: str, low: int, high: int, *superlatives: str) -> Attribute:
    pair = (superlatives[0], superlatives[1]) if superlatives else None
    return Attribute("number", tuple(names.split()), tuple(phrases.split()), range(low, high + 1), pair)


LABEL = Attribute("label", ("name", "full_name", "title"), ("name",), tuple(PEOPLE))
ATTRIBUTES = {
    "country": _category("country home_country", "country nation", COUNTRIES),
    "city": _category("city town", "city", CITIES),
    "color": _category("color main_color", "color", COLORS),
    "genre": _category("genre style", "genre style", GENRES),
    "status": _category("status state_code", "status", STATUSES),
    "level": _category("level grade", "level", LEVELS),
    "material": _category("material main_material", "material", MATERIALS),
    "language": _category("language native_language", "language", LANGUAGES),
    "department": _category("department dept_name", "department division", DEPARTMENTS),
    "age": _number("age current_age", "age", 18, 79, "oldest", "youngest"),
    "year": _number("year start_year", "year", 1950, 2020, "latest", "earliest"),
    "price": _number("price unit_price", "price cost", 5, 950, "most expensive", "cheapest"),
    "weight": _number("weight weight_kg", "weight", 10, 400, "heaviest", "lightest"),
    "height": _number("height height_cm", "height", 50, 250, "tallest", "shortest"),
    "capacity": _number("capacity max_capacity", "capacity", 20, 900),
    "score": _number("score points", "score", 1, 99),
    "rating": _number("rating stars", "rating", 1, 99, "best rated", "worst rated"),
    "salary": _number("salary income", "salary", 100, 990, "best paid", "worst paid"),
    "budget": _number("budget annual_budget", "budget", 100, 990),
    "revenue": _number("revenue total_sales", "revenue sales", 100, 990),
    "distance": _number("distance distance_km", "distance", 10, 900, "farthest", "nearest"),
    "speed": _number("speed top_speed", "speed", 40, 350, "fastest", "slowest"),
    "area": _number("area surface_area", "area", 20, 900),
    "wins": _number("wins win_count", "wins", 0, 60),
    "votes": _number("votes vote_count", "votes", 10, 990),
}

ENTITIES: list[tuple[str, str, tuple[str, ...]]] = [
    (singular, plural, tuple(attributes.split()))
    for singular, plural, attributes in [
        ("singer", "singers", "country age genre salary language"),
        ("concert", "concerts", "year city budget status"),
        ("stadium", "stadiums", "city capacity area year"),
        ("student", "students", "age city level score language"),
        ("teacher", "teachers", "age department salary level"),
        ("course", "courses", "department level year score"),
        ("book", "books", "genre price year language"),
        ("author", "authors", "country age language rating"),
        ("movie", "movies", "genre budget revenue year"),
        ("actor", "actors", "country age height salary"),
        ("car", "cars", "material color price speed year"),
        ("driver", "drivers", "country age wins level"),
        ("race", "races", "city distance year status"),
        ("team", "teams", "city wins budget year"),
        ("player", "players", "country height weight score"),
        ("hotel", "hotels", "city rating price capacity"),
        ("museum", "museums", "city area year revenue"),
        ("shop", "shops", "city revenue area status"),
        ("product", "products", "material color price weight"),
        ("supplier", "suppliers", "country rating revenue status"),
        ("employee", "employees", "department salary age level city"),
        ("company", "companies", "country revenue year budget"),
        ("project", "projects", "status budget department year"),
        ("ship", "ships", "color weight speed country"),
        ("airport", "airports", "city country capacity area"),
        ("flight", "flights", "distance price status speed"),
        ("dog", "dogs", "color age weight height"),
        ("song", "songs", "genre language votes rating"),
    ]
]


@dataclass(eq=False)
class Column:
    name: str
    kind: ColumnKind
    attribute: Attribute | None = None

    def phrase(self, rng: random.Random) -> str:
        assert self.attribute is not None, "keys are never spoken of"
        return rng.choice(self.attribute.phrases)


@dataclass(eq=False)
class Table:
    name: str
    singular: str
    plural: str
    columns: list[Column]
    parent: Table | None = None
    rows: list[tuple[int | str, ...]] = field(default_factory=list)

    @property
    def key(self) -> Column:
        return self.columns[0]

    @property
    def label(self) -> Column:
        return self.columns[1]

    @property
    def foreign_key(self) -> Column:
        return next(c for c in self.columns if c.kind == "foreign_key")

    def of(self, *kinds: ColumnKind) -> list[Column]:
        return [c for c in self.columns if c.kind in kinds]

    def values(self, column: Column) -> list[int | str]:
        at = self.columns.index(column)
        return [row[at] for row in self.rows]


def random_schema(rng: random.Random) -> list[Table]:
    """Two tables (sometimes three) with their rows; every table after the first refers to the first."""
    tables: list[Table] = []
    num_tables = 2 if rng.random() < 0.8 else 3
    plural_names = rng.random() < 0.4
    for singular, plural, pool in rng.sample(ENTITIES, num_tables):
        attributes = rng.sample(pool, rng.randint(2, 3) if num_tables == 2 else 2)
        if not any(ATTRIBUTES[a].kind == "number" for a in attributes):
            attributes.append(next(a for a in pool if ATTRIBUTES[a].kind == "number"))
        columns = [Column("id", "key"), Column(rng.choice(LABEL.names), "label", LABEL)]
        columns += [Column(rng.choice(ATTRIBUTES[a].names), ATTRIBUTES[a].kind, ATTRIBUTES[a]) for a in attributes]
        table = Table(plural if plural_names else singular, singular, plural, columns)
        if tables:
            table.parent = tables[0]
            table.columns.append(Column(f"{tables[0].singular}_id", "foreign_key"))
        table.rows = _random_rows(table, rng)
        tables.append(table)
    return tables


def _random_rows(table: Table, rng: random.Random) -> list[tuple[int | str, ...]]:
    num_rows = rng.randint(8, 14)
    by_column: list[list[int | str]] = []
    for column in table.columns:
        values = column.attribute.values if column.attribute else ()
        if column.kind == "key":
            by_column.append(list(range(1, num_rows + 1)))
        elif column.kind == "foreign_key":
            assert table.parent is not None
            by_column.append([rng.randint(1, len(table.parent.rows)) for _ in range(num_rows)])
        elif column.kind == "category":
            few = rng.sample(values, 4)  # few values, so that groups have several members
            by_column.append([rng.choice(few) for _ in range(num_rows)])
        else:  # distinct labels and numbers: superlatives have no ties
            by_column.append(rng.sample(values, num_rows))
    return list(zip(*by_column))
