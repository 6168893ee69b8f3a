"""`python -m benchmarks.models_page` writes `docs/models.md`, or checks it."""

from __future__ import annotations

import argparse
import os
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; the exit status is 1 if the page is old")
    check = parser.parse_args().check
    # Before vLLM is imported: no look at a hub, no lines between ours.
    os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    from benchmarks.models_page.page import PATH, made_page

    page = made_page()
    if check:
        sys.exit(None if PATH.read_text() == page else f"{PATH.name} is old: python -m benchmarks.models_page")
    PATH.write_text(page)


if __name__ == "__main__":
    main()
