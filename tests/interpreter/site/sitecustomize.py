"""Python imports this at its start when this folder is on PYTHONPATH. Processes without Triton pay 40 ms."""

import os

if os.environ.get("TRITON_INTERPRET") == "1":
    import wrapt

    wrapt.register_post_import_hook("triton_on_cpu:change_triton", "triton")
    wrapt.register_post_import_hook("triton_on_cpu:change_top_k_top_p", "vllm.v1.sample.ops.topk_topp_sampler")
