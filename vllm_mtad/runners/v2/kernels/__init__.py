"""These Triton kernels run a beam step and the acceptance test, one subject a module.

Each has its twin in `vllm_mtad.algorithm` (docs/structure.md), or a torch reference beside its test
(`tests/v2/kernels`). Wrappers launch them and allocate nothing: outputs are the caller's.
"""
