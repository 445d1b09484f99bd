"""The placement core: which slice of which GPU a request gets.

Pure Python without Kubernetes, and without I/O but for its own tables of values. `geometry` says what one
GPU allows, `state` what is taken, `policies` and `score` how good a place is, `engine` chooses, `explain`
says why nothing fits, and `moves` what would make room.
"""
