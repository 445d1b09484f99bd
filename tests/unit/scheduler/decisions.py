"""What a round decided, in the words of a test."""

from __future__ import annotations

from collections.abc import Iterable

from tessera.scheduler.actions import Action, Place


def placed(actions: Iterable[Action]) -> dict[str, tuple[str, ...]]:
    """Pod -> its devices; an empty tuple where only the gate is removed."""
    return {
        p.pod.key[1]: tuple(r.device for c in p.claims for r in c.results)
        for a in actions
        if isinstance(a, Place)
        for p in a.pods
    }
