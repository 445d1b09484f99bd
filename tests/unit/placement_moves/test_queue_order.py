"""Who is served first: priority, then arrival or work; and no request waits for ever."""

from __future__ import annotations

import pytest
from tessera.placement.queue_order import QueueOrder, Waiting


def names(queue: list[Waiting]) -> list[object]:
    return [one.name for one in queue]


def test_priority_comes_first_then_arrival() -> None:
    queue = [Waiting("a", since=0, slices=1), Waiting("b", since=5, slices=8, priority=1), Waiting("c", 1, 1)]
    assert names(QueueOrder().sorted(queue, now=10)) == ["b", "a", "c"]


def test_smallest_work_goes_before_what_came_earlier() -> None:
    order = QueueOrder(rule="smallest-work", age_limit_seconds=1000)
    queue = [
        Waiting("large", since=0, slices=8, seconds=100),
        Waiting("small", since=1, slices=1, seconds=100),
        Waiting("unknown", since=0, slices=1),
    ]
    assert names(order.sorted(queue, now=2)) == ["small", "large", "unknown"]


def test_waiting_makes_a_request_smaller_and_at_the_age_limit_it_is_first() -> None:
    order = QueueOrder(rule="smallest-work", age_limit_seconds=1000)
    large = Waiting("large", since=0, slices=8, seconds=100)
    for now, first in ((100, "small"), (900, "large"), (1000, "large")):
        small = Waiting("small", since=now, slices=1, seconds=100)
        assert names(order.sorted([small, large], now=now))[0] == first
    older = Waiting("older", since=-50, slices=8, seconds=10_000)
    assert names(order.sorted([large, older], now=1000)) == ["older", "large"]


@pytest.mark.parametrize("rule", ["age", "smallest-work"])
def test_no_stream_of_small_requests_keeps_a_large_one_waiting(rule: str) -> None:
    order = QueueOrder(rule=rule, age_limit_seconds=60)  # type: ignore[arg-type]
    queue = [Waiting("large", since=0, slices=8, seconds=1e6)]
    for now in range(200):
        queue.append(Waiting(now, since=now, slices=1, seconds=1))
        queue.append(Waiting(-now - 1, since=now, slices=1, seconds=1))
        served = order.sorted(queue, now=now)[0]
        if served.name == "large":
            assert now <= 60
            return
        queue.remove(served)
    raise AssertionError("the large request was never first")


def test_a_rule_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown queue rule"):
        QueueOrder(rule="random")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="age limit"):
        QueueOrder(age_limit_seconds=0)
