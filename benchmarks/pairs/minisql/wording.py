"""`word_question` words a query in English. Every intent has several wordings."""

from __future__ import annotations

import random

from benchmarks.pairs.minisql.query import Condition, Query

COMPARISON_WORDS = {
    ">": ("above {}", "over {}", "greater than {}", "more than {}"),
    ">=": ("of at least {}", "of {} or more"),
    "<": ("below {}", "under {}", "less than {}"),
    "<=": ("of at most {}", "of {} or less"),
}
AGGREGATE_WORDS = {
    "AVG": ("average", "mean"),
    "SUM": ("total", "sum of the"),
    "MAX": ("maximum", "highest"),
    "MIN": ("minimum", "lowest"),
}
TEMPLATES = {
    "select": (
        "{show} the {columns} of {plural} {where}.",
        "What is the {columns} of each {singular} {where}?",
        "For {plural} {where}, what is the {columns}?",
    ),
    "count": (
        "How many {plural} are there {where}?",
        "Count the {plural} {where}.",
        "What is the number of {plural} {where}?",
    ),
    "aggregate": (
        "What is the {aggregate} {columns} of {plural} {where}?",
        "{show} the {aggregate} {columns} of all {plural} {where}.",
    ),
    "group_count": (
        "How many {plural} are there for each {by}?",
        "{show} the {by} and the number of {plural} per {by}.",
        "Count the {plural} in each {by}.",
    ),
    "group_aggregate": (
        "What is the {aggregate} {columns} of {plural} for each {by}?",
        "{show} the {by} and the {aggregate} {columns} of {plural} per {by}.",
    ),
    "superlative": (
        "What is the {columns} of the {extreme}?",
        "{show} the {columns} of the {extreme}.",
    ),
    "top": ("{show} the {columns} of the {limit} {extreme}.",),
    "sort": ("{show} the {columns} of all {plural} {direction} {by}.",),
    "having": (
        "Which {by} has more than {threshold} {plural}?",
        "{show} every {by} shared by more than {threshold} {plural}.",
    ),
    "distinct": (
        "{show} the different {columns} of {plural}.",
        "What are the distinct {columns} values of {plural}?",
    ),
    "most_common": (
        "Which {by} has the {most} {plural}?",
        "{show} the {by} with the {most} {plural}.",
    ),
    "join": (
        "{show} the {columns} of {plural} that have {children} {where}.",
        "For {children} {where}, {show_lower} the {columns} of their {singular}.",
    ),
    "join_child": (
        "{show} the {columns} of {children} that belong to {plural} {where}.",
        "{show} the {columns} of every {child} linked to a {singular} {where}.",
    ),
    "join_aggregate": (
        "What is the {aggregate} {columns} of {children} of {plural} {where}?",
        "{show} the {aggregate} {columns} of {children} that belong to the {singular} {where}.",
    ),
    "join_count": (
        "{show} the {columns} of each {singular} and its number of {children}.",
        "For each {singular}, {show_lower} the {columns} and the number of {children}.",
    ),
}


def word_question(query: Query, rng: random.Random) -> str:
    """One of the wordings of `query`, ending in a full stop or a question mark."""
    show = rng.choice(("Show", "List", "Give", "Find"))
    fields = {
        "show": show,
        "show_lower": show.lower(),
        "columns": " and ".join(c.phrase(rng) for c in query.columns),
        "where": " and ".join(_word_condition(c, rng) for c in query.conditions),
        "singular": query.table.singular,
        "plural": query.table.plural,
        "child": query.child.singular if query.child else "",
        "children": query.child.plural if query.child else "",
        "aggregate": rng.choice(AGGREGATE_WORDS[query.aggregate]) if query.aggregate else "",
        "by": query.by.phrase(rng) if query.by else "",
        "limit": query.limit,
        "threshold": query.threshold,
        "most": "most" if query.descending else "fewest",
        "direction": rng.choice(
            ("in descending order of", "from highest to lowest")
            if query.descending
            else ("in ascending order of", "from lowest to highest")
        ),
        "extreme": _word_extreme(query, rng) if query.kind in ("superlative", "top") else "",
    }
    text = rng.choice(TEMPLATES[query.kind]).format(**fields)
    return text.replace(" .", ".").replace(" ?", "?").replace(" ,", ",")


def _word_condition(condition: Condition, rng: random.Random) -> str:
    phrase, value = condition.column.phrase(rng), condition.value
    if condition.operator == "between":
        return rng.choice(
            (f"with {phrase} between {value} and {condition.upper}", f"with {phrase} from {value} to {condition.upper}")
        )
    if condition.operator == "=":
        return rng.choice((f"whose {phrase} is {value}", f"with {phrase} {value}"))
    if condition.operator == "!=":
        return rng.choice((f"whose {phrase} is not {value}", f"with {phrase} other than {value}"))
    return f"with {phrase} " + rng.choice(COMPARISON_WORDS[condition.operator]).format(value)


def _word_extreme(query: Query, rng: random.Random) -> str:
    assert query.by is not None
    assert query.by.attribute is not None
    noun = query.table.singular if query.kind == "superlative" else query.table.plural
    superlatives = query.by.attribute.superlatives
    if superlatives and rng.random() < 0.5:
        return f"{superlatives[0 if query.descending else 1]} {noun}"
    extreme = rng.choice(("highest", "largest") if query.descending else ("lowest", "smallest"))
    return f"{noun} with the {extreme} {query.by.phrase(rng)}"
