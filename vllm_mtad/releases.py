"""The releases of vLLM that mtad was tested with, and what they have in different places.

What differs otherwise is met by asking the installed vLLM, in the one place where it matters:

- `config.speculative.MTADSpeculativeConfig.draft_shares_target_positions`: 0.33 asks for it, 0.32 does not;
- `plugin.seams`, the row that `may_be_absent`: 0.33 drops schedules on V1, 0.32 does not;
- `runners.v2.speculator.MTADSpeculator._reads`: 0.33 asks for no drafts in steps after which no request decodes.
"""

from __future__ import annotations

import importlib
from typing import Any

TESTED = ("0.32.0", "0.33.0")

MOVED = {
    "make_arg_parser": ("vllm.entrypoints.common.cli_args", "vllm.entrypoints.launchers.cli_args"),
    "get_kv_cache_configs": ("vllm.v1.core.kv_cache_planning", "vllm.v1.core.kv_cache_utils"),
    "is_quantized_kv_cache": ("vllm.v1.kv_cache_interface", "vllm.utils.torch_utils"),
}
"""The modules that have it, the newest release's first."""


def moved(name: str) -> Any:
    """
    Raises:
        ImportError: if the installed vLLM has it in none of the places.
    """
    for module in MOVED[name]:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"vLLM has {name} neither in {' nor in '.join(MOVED[name])}")
