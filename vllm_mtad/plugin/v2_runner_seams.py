"""This patch (seam) of the V2 model runner joins its speculator to the rejection sampler and the target."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm_mtad.config.options import is_mtad


def join_speculator_and_sampler(load_model: Callable) -> Callable:
    """After the models, set up an MTADRejectionSampler, the drafter's sampling parameters, and trees for the target."""

    @functools.wraps(load_model)
    def with_joint_test(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = load_model(self, *args, **kwargs)
        if is_mtad(self.speculative_config) and self.speculator is not None:
            from vllm_mtad.runners.v2.noted_requests import NotingModelState
            from vllm_mtad.runners.v2.rejection_sampler import MTADRejectionSampler
            from vllm_mtad.runners.v2.tree_verification import TreeModelState

            speculator = self.speculator
            self.rejection_sampler = MTADRejectionSampler(
                self.sampler,
                self.speculative_config,
                self.device,
                speculator.beams.trees,
                speculator.noted,
                speculator.verification,
            )
            speculator.use_sampler(self.sampler)
            if self.uses_inputs_embeds:
                self.model_state = NotingModelState(self.model_state, speculator.noted)
            if speculator.verification is not None:
                self.model_state = TreeModelState(self.model_state, speculator.verification)
        return result

    return with_joint_test
