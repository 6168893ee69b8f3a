"""Triton kernels of a beam step and of the acceptance test, one subject a module.

Each has a torch reference beside its test (`tests/v2/kernels`). Wrappers launch and allocate nothing: outputs are the
caller's.
"""
