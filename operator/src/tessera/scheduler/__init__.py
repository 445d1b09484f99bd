"""The allocator: which slice of which GPU every pod gets.

`loop` runs the process: `snapshot` freezes the cluster (read by `objects` and `inventory`), `planner` decides
with the placement core (`requests` and `selectors` say what a claim admits, `filters` which nodes will do,
`takeback` what did not work out), and `writer` carries the `actions` out with the bodies of `allocation`.
"""
