"""NoiSER: a tiny network trained to reproduce pure noise brightens dark photos that it has never seen.

Idea (Zhang et al., "Self-Regression on Noise", arXiv 2211.04700): self-regression keeps local contrast,
instance normalisation forgets the global level, and zero-mean noise makes mid-grey the level that it is put
back to. So the network lifts any dark picture to a mean of one half, also a night sky that should stay dark:
the gray-world failure, which the evaluation shows beside the result. Written from the formulas alone.
"""
