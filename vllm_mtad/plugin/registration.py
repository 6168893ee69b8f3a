"""vLLM calls `register` when it loads its general plugins: it is cheap, repeatable, and never raises."""

from __future__ import annotations

import logging
from functools import partial

logger = logging.getLogger("vllm.mtad")


def register() -> None:
    """Apply each seam when its module is imported, or at once if it already is.

    Whether mtad can run is asked where it is asked for (`availability`). An exception here would end every vLLM process
    on the machine, so one is logged instead.
    """
    try:
        import wrapt

        from vllm_mtad.plugin.seams import SEAMS, apply_seam

        for seam in SEAMS:
            wrapt.register_post_import_hook(partial(apply_seam, seam), seam.module)
    except Exception:
        logger.exception("vllm-mtad could not be registered; vLLM runs without it.")
