"""This script runs one task in a process of its own:
`python -m benchmarks.gpu_checks.tasks NAME RESULT_FILE JSON_ARGUMENTS`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

# Task -> its function. Imported when it runs: most import vLLM.
TASKS = {
    "engine": "benchmarks.gpu_checks.engine_task:generate",
    "reference": "benchmarks.gpu_checks.engine_task:reference",
    "drafting": "benchmarks.gpu_checks.drafting:measure",
    "steps": "benchmarks.gpu_checks.step:measure",
    "trees": "benchmarks.gpu_checks.trees:measure",
}


def main() -> None:
    name, result, arguments = sys.argv[1:]
    module, function = TASKS[name].split(":")
    answer = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    temporary = Path(result).with_suffix(".part")
    temporary.write_text(json.dumps(answer))
    temporary.rename(result)
    sys.stdout.flush()
    os._exit(0)  # a teardown that hangs or fails says nothing about the result


if __name__ == "__main__":
    main()
