"""Tables for people at a terminal stay tables whatever is in their cells."""

from tessera_workloads.tables import aligned


def test_columns_are_as_wide_as_their_widest_cell_and_numbers_stand_at_their_right() -> None:
    rows = [["a name longer than its column's head", "5", "7.25"], ["short", "1000", "0.50"]]
    table = aligned(["phase", "steps", "GFLOP"], rows, left=1).splitlines()
    assert table[1] == "a name longer than its column's head      5   7.25"
    assert {len(line) for line in table} == {len(table[1])}


def test_no_line_ends_in_spaces() -> None:
    assert aligned(["kind", ""], [["gate", "pass"]], left=2) == "kind\ngate  pass"
