"""NASA: search for a network that multiplies only where multiplying pays.

Idea (Shi et al., ICCAD 2022, arXiv 2210.13361): a cell of the network may convolve, shift (weights are
powers of two), add (weights are compared by their distance) or skip. A supernet holds all of them; gates
choose among them while a price on energy pulls towards the cheap ones; the winner is trained from scratch.
Shift and add learn by gradients that are not those of what they compute. Written from the formulas alone.
"""
