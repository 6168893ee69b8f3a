"""What vLLM calls when it loads its general plugins: cheap, repeatable, and never raising."""

from __future__ import annotations

import logging
from functools import partial

logger = logging.getLogger("vllm.mtad")


def register(vllm_version: str | None = None) -> None:
    """Apply each seam when its module is imported, or at once if it already is.

    On a vLLM that is not supported, only the seams that let mtad be refused by name are applied. An exception
    here would end every vLLM process on the machine, so one is logged instead.

    Args:
        vllm_version: instead of the installed one.
    """
    try:
        import wrapt

        from vllm_mtad.plugin.seams import REFUSAL_SEAMS, SEAMS, apply_seam
        from vllm_mtad.plugin.versions import installed_vllm, unsupported_reason

        reason = unsupported_reason(vllm_version or installed_vllm())
        for seam in SEAMS if reason is None else REFUSAL_SEAMS:
            wrapt.register_post_import_hook(partial(apply_seam, seam, reason), seam.module)
    except Exception:
        logger.exception("vllm-mtad could not be registered; vLLM runs without it.")
