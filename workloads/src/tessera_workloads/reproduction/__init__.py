"""`make reproduce`: every workload at size ci with several seeds, and one page that says what came of it.

`runs` starts the workers, `report` makes the page from what they left, `__main__` is the command.
"""
