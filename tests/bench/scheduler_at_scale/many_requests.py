"""Many requests to one API server, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

_AT_ONCE = 16


async def each(items: Iterable[T], request: Callable[[T], Awaitable[object]]) -> None:
    """One request for each of the items."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(item: T) -> None:
        async with slots:
            await request(item)

    await asyncio.gather(*map(one, items))
