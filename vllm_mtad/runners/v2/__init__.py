"""This package runs MTAD on vLLM's V2 model runner, the default on a GPU.

`speculator` runs a drafting round; `beams` grows the beams and `beam_attention` lets them attend; `graphs` records a
round as CUDA graphs; `rejection_sampler` verifies. `kernels` holds what they launch.
"""
