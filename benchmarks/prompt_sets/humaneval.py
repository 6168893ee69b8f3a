"""HumanEval asks for the body of a Python function, which is judged by running it against its tests.

Chen et al. 2021, https://huggingface.co/datasets/openai/openai_humaneval: columns `prompt`, `test`, `entry_point`. Each
prompt is answered once, so the share of right answers is pass@1.
"""

from __future__ import annotations

from benchmarks.prompt_sets.base import PromptSet, cut_at_stop
from benchmarks.prompt_sets.rows import Rows
from benchmarks.prompt_sets.sandbox import require_sandbox, run_checked


class HumanEval(PromptSet):
    name = "humaneval"
    max_tokens = 512
    stop = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n```")  # the paper's, and the end of a code block
    judged_by = "The function passes all of its tests, in a sandbox, within 10 seconds (pass@1)."

    def __init__(self, count: int, source: str | None = None, allow_execution: bool = False) -> None:
        if not allow_execution:
            raise ValueError(
                "humaneval executes code that the model wrote on this machine; --execute-generated-code permits it."
            )
        require_sandbox()
        rows = Rows(self.name, source or "openai/openai_humaneval", "test", "openai_humaneval")
        self.tasks = rows.sample(count, ("prompt", "test", "entry_point"))
        self.prompts = [task["prompt"] for task in self.tasks]

    def judge(self, index: int, completion: str) -> bool:
        task = self.tasks[index]
        solution = task["prompt"] + cut_at_stop(completion, self.stop)
        return run_checked(solution, f"{task['test']}\ncheck({task['entry_point']})\n", seconds=10).passed
