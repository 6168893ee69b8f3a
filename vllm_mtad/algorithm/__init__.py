"""This package is MTAD in plain torch, without vLLM.

Model Runner V1 runs it, and the kernels of Model Runner V2, its twins, are held against it.

`warp` turns logits into the distributions p and q. `beams` drafts jointly, with the noise of `noise`, and
chooses one draft. `tree` says which beams the target sees where it sees several. `acceptance` keeps the longest
prefix, or the deepest node, whose joint ratio passes, and draws the extra token.
`reference` is a slow decoder written from the specification alone; nothing else here imports it.
"""
