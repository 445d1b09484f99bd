"""The tests' reader of `/metrics`: a table that nobody has used shows names, and no number."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from scraped_metrics import Scrape, total, values


def test_a_name_without_a_sample_counts_for_nothing() -> None:
    registry = CollectorRegistry()
    reconciled = Counter("tessera_reconcile", "Help.", ["kind", "result"], registry=registry)
    depth = Gauge("tessera_queue_depth", "Help.", ["profile"], registry=registry)
    body = generate_latest(registry).decode()
    assert "tessera_reconcile_total" in body
    idle = [Scrape.parse(body)]
    assert values(idle, "tessera_reconcile_total") == values(idle, "tessera_queue_depth") == []

    reconciled.labels("Job", "done").inc(3)
    reconciled.labels("Job", "error").inc()
    depth.labels("7g.80gb").set(2)
    busy = [Scrape.parse(generate_latest(registry).decode())]
    assert total([*idle, *busy], "tessera_reconcile_total", kind="Job") == 4
    assert total(busy, "tessera_reconcile_total", result="error") == 1
    assert values(busy, "tessera_queue_depth", profile="7g.80gb") == [2]
    assert values(busy, "tessera_queue_depth", profile="1g.10gb") == []
