"""Changing the layout of the GPUs of one machine: what is asked, the plan, and the transaction.

`wanted` reads what a person asks for, `reading` asks the driver what there is, `planning` and `plan` decide
which instances stay, go and come (pure, no I/O). `transaction` carries a plan out or undoes it, by the walk
in `settling`; `journal` is what survives a kill in the middle.
"""
