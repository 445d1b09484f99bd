"""Metrics: the declarations, their documentation, and the server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tessera.api.errors import TesseraError
from tessera.metrics import registry, server
from tessera.metrics.reference import render
from tessera.metrics.server import start_server

REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_documented_table_is_the_declared_one() -> None:
    assert (REPOSITORY / "docs/metrics.md").read_text() == render(), (
        "run: python -m tessera.metrics.reference > docs/metrics.md"
    )


def test_names_follow_the_conventions() -> None:
    for row in registry.DECLARED:
        assert row.name.startswith("tessera_")
        assert row.name.endswith("_total") == (row.kind == "counter"), row.name
        if row.kind == "histogram":
            assert row.name.endswith("_seconds"), row.name
        assert row.help.endswith("."), row.name


def test_every_declaration_is_a_constant_of_that_name() -> None:
    for row in registry.DECLARED:
        assert hasattr(registry, row.name.removeprefix("tessera_").upper()), row.name


def test_timed_observes_also_when_the_block_fails() -> None:
    def count() -> float:
        return registry.REGISTRY.get_sample_value("tessera_unprepare_seconds_count") or 0.0

    before = count()
    with pytest.raises(RuntimeError), registry.timed(registry.UNPREPARE_SECONDS):
        raise RuntimeError
    assert count() == before + 1


async def fetch(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_metrics_are_served_in_the_prometheus_format() -> None:
    running = await start_server(0, host="127.0.0.1")
    try:
        registry.UNGATED_TOTAL.inc()
        status, text = await fetch(running.port, "/metrics")
        families = {family.name for family in text_string_to_metric_families(text)}
        assert status == 200
        assert {"tessera_ungated", "tessera_leader", "process_resident_memory_bytes"} <= families
        assert (await fetch(running.port, "/healthz"), await fetch(running.port, "/readyz")) == (
            (200, "ok"),
            (200, "ok"),
        )
    finally:
        await running.stop()


async def test_readiness_says_what_is_wrong_and_liveness_does_not_care(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "CHECK_SECONDS", 0.05)

    async def well() -> None:
        return None

    async def waits() -> str:
        return "waiting for the API server"

    async def hangs() -> None:
        await asyncio.Event().wait()

    async def breaks() -> str:
        raise RuntimeError("boom")

    checks = {"nvml": well, "informers": waits, "driver": hangs, "plugin": breaks}
    running = await start_server(0, checks=checks, host="127.0.0.1")
    try:
        status, text = await fetch(running.port, "/readyz")
        assert status == 503
        assert text.splitlines() == [
            "informers: waiting for the API server",
            "driver: no answer within 0.05 s",
            "plugin: the check itself failed: boom",
        ]
        assert await fetch(running.port, "/healthz") == (200, "ok")
    finally:
        await running.stop()


async def test_a_failed_health_check_asks_for_a_restart() -> None:
    async def hung() -> str:
        return "the work loop has not moved for 60 s"

    running = await start_server(0, health_checks={"loop": hung}, host="127.0.0.1")
    try:
        assert (await fetch(running.port, "/healthz"))[0] == 503
    finally:
        await running.stop()


async def test_a_taken_port_is_an_error() -> None:
    first = await start_server(0, host="127.0.0.1")
    try:
        with pytest.raises(TesseraError, match=rf"port {first.port} .* in use.*choose another --port"):
            await start_server(first.port, host="127.0.0.1")
    finally:
        await first.stop()


async def test_a_number_that_no_port_has_is_an_error() -> None:
    with pytest.raises(TesseraError, match=r"port 99999 cannot be opened .*choose another --port"):
        await start_server(99999, host="127.0.0.1")
