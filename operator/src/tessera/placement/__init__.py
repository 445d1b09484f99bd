"""The placement core: which slice of which GPU a request gets.

Pure Python without I/O and without Kubernetes. `geometry` says what one GPU allows, `state` what is taken,
`policies` and `score` how good a place is, `engine` chooses, and `explain` says why nothing fits.
"""
