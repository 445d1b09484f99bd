"""How few GPUs are enough: exact planning by integer programs, without a cluster and without I/O.

A GPU can be cut into a few hundred layouts, so "how many GPUs do these requests need" is an integer program
with one column per layout worth using and one row per profile. It is solved to proven optimality in
milliseconds; services with rates and latency bounds add one row each. Every answer is checked by code that
shares nothing with the solver before anyone sees it.
"""
