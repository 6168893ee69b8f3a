"""vLLM calls `register` when it loads its general plugins: it is cheap, repeatable, and never raises."""

from __future__ import annotations

import logging
from functools import partial

logger = logging.getLogger("vllm.mtad")


def register() -> None:
    """Apply each seam when its module is imported, or at once if it already is.

    On a vLLM that is not supported, only the seams that let mtad be refused by name are applied. An exception
    here would end every vLLM process on the machine, so one is logged instead.
    """
    try:
        import wrapt

        from vllm_mtad.plugin.availability import is_supported_vllm
        from vllm_mtad.plugin.seams import SEAMS, apply_seam

        for seam in SEAMS:
            if seam.refuses_mtad or is_supported_vllm():
                wrapt.register_post_import_hook(partial(apply_seam, seam), seam.module)
    except Exception:
        logger.exception("vllm-mtad could not be registered; vLLM runs without it.")
