"""Waiting, in an asynchronous test, for what other processes will bring about."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


async def eventually(
    what: str,
    probe: Callable[[], Awaitable[T | None]],
    *,
    seconds: float = 60.0,
    every: float = 0.1,
    state: Callable[[], Awaitable[object]] | None = None,
) -> T:
    """The first true answer of `probe`; fails with `what` and the last answer, or the `state` by then, after
    the limit.
    """
    last: T | None = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                last = await probe()
                if last:
                    return last
                await asyncio.sleep(every)
    except TimeoutError:
        seen = await state() if state else last
        pytest.fail(f"gave up after {seconds:.0f} s waiting for {what}; last seen: {seen}")
