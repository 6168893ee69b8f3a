"""Which of vLLM's CUDA graphs serves each decode batch, without capturing any; prints JSON.

Two lengths, of 5 and 17 tokens a request, at vLLM's default sizes on a GPU.
"""

import json
import sys
from types import SimpleNamespace
from unittest import mock

import torch
from vllm.config.compilation import CUDAGraphMode
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.worker.gpu import cudagraph_utils

SCHEDULE, LENGTHS = [(1, 7, 16), (8, 64, 4)], (5, 17)


def main() -> None:
    target = sys.argv[1]
    speculative = {"method": "draft_model", "model": target, "num_speculative_tokens": 16}
    speculative["num_speculative_tokens_per_batch_size"] = SCHEDULE
    config = EngineArgs(model=target, speculative_config=speculative, max_num_seqs=64).create_engine_config()
    config.compilation_config.cudagraph_capture_sizes = [1, 2, 4, *range(8, 257, 8), *range(272, 513, 16)]
    config.compilation_config.max_cudagraph_capture_size = 512
    ranks = SimpleNamespace(is_first_rank=True, is_last_rank=True)
    with (
        mock.patch.object(cudagraph_utils, "get_pp_group", lambda: ranks),
        mock.patch.object(cudagraph_utils.current_platform, "get_global_graph_pool", lambda: None, create=True),
    ):
        manager = cudagraph_utils.CudaGraphManager(
            config, torch.device("cpu"), CUDAGraphMode.FULL_DECODE_ONLY, max(LENGTHS)
        )
    manager._graphs_captured = True
    found = {}
    for length in LENGTHS:
        for num_reqs in range(1, 65):
            graph = manager.dispatch(num_reqs, num_reqs * length, length, 0)
            found[f"{length} x {num_reqs}"] = None if graph.cg_mode == CUDAGraphMode.NONE else graph.num_tokens
    print(json.dumps({"module": cudagraph_utils.__file__, "graphs": found}))


if __name__ == "__main__":
    main()
