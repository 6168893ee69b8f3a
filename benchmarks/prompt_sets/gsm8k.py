"""GSM8K asks questions of school arithmetic in words, to be answered in steps.

Cobbe et al. 2021, https://huggingface.co/datasets/openai/gsm8k: columns `question` and `answer`, which ends in
`#### 42`.
"""

from __future__ import annotations

import re
from decimal import Decimal

from benchmarks.prompt_sets.base import PromptSet, cut_at_stop
from benchmarks.prompt_sets.rows import Rows

_COLUMNS = ("question", "answer")
# A minus that follows a digit or a bracket subtracts; it is no sign.
_NUMBER = re.compile(r"(?:(?<![\w)])[-−])?(?:[$€£] ?[-−]?)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+)")
_CALCULATION = re.compile(r"<<[^>]*>>")

# Used where the source has no split to take examples from.
_OWN_SHOTS = (
    (
        "A shelf has 3 rows of 14 jars. Lena breaks 5 jars and buys 8 new ones. How many jars are there now?",
        "At first there are 3 * 14 = 42 jars.\nWithout the broken ones there are 42 - 5 = 37.\n"
        "With the new ones there are 37 + 8 = 45.\n#### 45",
    ),
    (
        "A ferry ticket costs $12 for an adult and half of that for a child. What do 2 adults and 3 children pay?",
        "A child pays 12 / 2 = 6 dollars.\nThe adults pay 2 * 12 = 24 dollars.\nThe children pay 3 * 6 = 18 dollars.\n"
        "Together they pay 24 + 18 = 42 dollars.\n#### 42",
    ),
    (
        "Omar reads 20 pages on Monday and 25% more on Tuesday. His book has 100 pages. How many are left?",
        "On Tuesday he reads 20 * 1.25 = 25 pages.\nOn both days he reads 20 + 25 = 45 pages.\n"
        "So 100 - 45 = 55 pages are left.\n#### 55",
    ),
    (
        "A tank holds 1500 litres. A pump fills 40 litres a minute while 10 litres a minute leak out. In how many "
        "minutes is the empty tank full?",
        "Each minute 40 - 10 = 30 litres stay in the tank.\nSo it is full in 1500 / 30 = 50 minutes.\n#### 50",
    ),
)


class GSM8K(PromptSet):
    name = "gsm8k"
    max_tokens = 320
    stop = ("\nQuestion:",)
    judged_by = "The number after the first ####, or else the last number, equals the reference's."

    def __init__(self, count: int, source: str | None = None) -> None:
        rows = Rows(self.name, source or "openai/gsm8k", "test", "main")
        examples = rows.sample(count, _COLUMNS)
        shown = [(r["question"], r["answer"]) for r in rows.sample(len(_OWN_SHOTS), _COLUMNS, "train")]
        shots = "".join(
            f"Question: {question.strip()}\nAnswer: {_CALCULATION.sub('', answer).strip()}\n\n"
            for question, answer in (shown if len(shown) == len(_OWN_SHOTS) else _OWN_SHOTS)
        )
        self.prompts = [f"{shots}Question: {row['question'].strip()}\nAnswer:" for row in examples]
        self.references = [self._reference(row) for row in examples]

    def judge(self, index: int, completion: str) -> bool:
        return final_number(cut_at_stop(completion, self.stop)) == self.references[index]

    def _reference(self, row: dict[str, str]) -> Decimal:
        reference = final_number(row["answer"])
        if reference is None:
            raise ValueError(f"{self.name}: the answer to '{row['question'][:60]}' has no number.")
        return reference


def final_number(text: str) -> Decimal | None:
    """The answer of a chain of steps: `#### $1,234.50` and `so she has 1234.5.` are both 1234.5."""
    _, marked, after = text.partition("####")
    numbers = _NUMBER.findall(after if marked else text)
    if not numbers:
        return None
    return Decimal(re.sub(r"[\s,$€£]", "", numbers[0 if marked else -1]).replace("−", "-"))
