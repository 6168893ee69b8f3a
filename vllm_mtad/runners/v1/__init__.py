"""This package runs MTAD on vLLM's V1 model runner, which vLLM's CPU engine uses.

It is `vllm_mtad.algorithm` in torch, on the host.

`proposer` drafts: one pass over what the target saw, then a beam loop whose rows live in `beam_cache`, on KV
blocks that `scratch` reserved. `request_table` holds what the batch's requests asked for. `handover` carries
log q to `rejection_sampler`, which runs the joint test. Several candidates go through the target as
`tree_verification` lays them out, in the blocks of `branches`.

All of it can go when vLLM's CPU engine runs Model Runner V2 without Triton's interpreter.
"""
