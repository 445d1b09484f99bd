"""A driver that counts and times every NVML request of another one."""

from __future__ import annotations

from typing import Any

from tessera.gpu.driver import Driver
from tessera.gpu.faults import NVMLFault
from tessera.metrics.registry import NVML_CALL_SECONDS, NVML_ERRORS_TOTAL, timed


class MeasuredDriver(Driver):
    """Passes every call on and keeps the metrics `nvml_call_seconds` and `nvml_errors_total`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.simulated = driver.simulated

    async def call(self, method: str, *arguments: Any) -> Any:
        """Run the call and measure it."""
        with timed(NVML_CALL_SECONDS, method):
            try:
                return await self._driver.call(method, *arguments)
            except NVMLFault as fault:
                NVML_ERRORS_TOTAL.labels(fault.call, fault.symbol).inc()
                raise

    async def close(self) -> None:
        """Close the other driver."""
        await self._driver.close()
