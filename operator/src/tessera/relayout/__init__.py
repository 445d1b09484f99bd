"""Changing the layout of the GPUs of one machine: what is asked, the plan, and the transaction.

`wanted` reads what a person asks for, `plan` decides which instances stay, go and come (pure, no I/O),
`reading` asks the driver what there is, `transaction` carries a plan out or undoes it, and `journal` is what
survives a kill in the middle.
"""
