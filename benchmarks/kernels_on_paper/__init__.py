"""This package finds out what can be known of the V2 runner's kernels without a GPU.

That is what Triton compiles, and what a round launches and moves.
"""
