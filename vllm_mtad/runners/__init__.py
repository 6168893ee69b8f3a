"""Adapters from vLLM's model runners to `vllm_mtad.algorithm`."""
