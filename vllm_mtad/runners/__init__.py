"""These packages adapt MTAD to vLLM's model runners: V1 runs `vllm_mtad.algorithm`, V2 its twins in Triton.

See docs/structure.md.
"""
