"""What is known of the V2 runner's kernels without a GPU: what Triton compiles, and what a round launches and moves."""
