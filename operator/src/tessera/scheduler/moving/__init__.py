"""Room for pods that fit nowhere, made by moving running ones that allow it, or by preempting lower ones.

`victims` says who may be moved and at what cost, `ration` how often, `plans` what would be done for a pod,
`beginnings` for whom it is asked and the first steps. From then on all is read from the records in the
cluster (`move_records`): `under_way` judges them anew in every round, `steps` goes on, and `words` tells it.
"""
