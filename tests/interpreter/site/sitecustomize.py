"""Python imports this at its start when this folder is on PYTHONPATH. Processes without Triton pay 40 ms."""

import os

if os.environ.get("TRITON_INTERPRET") == "1":
    import wrapt

    wrapt.register_post_import_hook("triton_on_cpu:change_triton", "triton")
