"""This package holds the plugin's entry point and the few places where vLLM is patched.

`register` is what vLLM calls in each of its processes. `seams` is the table of all patches.
"""
