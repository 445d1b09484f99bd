"""Pods of any user write their results; of the machine's users only the cluster's owner gets there."""

from __future__ import annotations

from pathlib import Path

from tessera.local.storage import make_output


def test_pods_may_write_and_other_users_do_not_get_there(tmp_path: Path) -> None:
    output = tmp_path / "cluster" / "output"
    output.parent.mkdir(mode=0o755)
    for _ in range(2):  # The second `up` finds what the first has made.
        make_output(output)
        assert output.stat().st_mode & 0o7777 == 0o1777
        assert output.parent.stat().st_mode & 0o777 == 0o700
