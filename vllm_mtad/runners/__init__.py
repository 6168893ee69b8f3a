"""Adapters to vLLM's model runners: V1 runs `vllm_mtad.algorithm`, V2 its twins in Triton (docs/structure.md)."""
