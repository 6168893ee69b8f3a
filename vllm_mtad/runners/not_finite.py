"""A draft model whose numbers are NaN or infinite is warned of once.

A draft whose q is NaN is always rejected, so text is the target's own; nothing else is done about it.
"""

from __future__ import annotations

import torch
from torch import nn
from vllm.logger import init_logger

logger = init_logger("vllm.mtad")


def warn_of_weights(model: nn.Module, name: str) -> None:
    """Look at the weights of the draft model `name`, once they are loaded and where they are not packed."""
    for parameter_name, parameter in model.named_parameters():
        if parameter.dtype in (torch.float32, torch.bfloat16, torch.float16) and not parameter.isfinite().all():
            _warn(name, f"weights in {parameter_name}")
            return


def warn_of_states(hidden: torch.Tensor, name: str) -> bool:
    """Look at hidden states of the draft model `name`; whether it was warned of them."""
    if hidden.isfinite().all():
        return False
    _warn(name, "hidden states")
    return True


def _warn(name: str, what: str) -> None:
    logger.warning(
        "The draft model %s has %s that are NaN or infinite: drafts that meet them are rejected, and decoding is the"
        " target's own, and slower.",
        name,
        what,
    )
