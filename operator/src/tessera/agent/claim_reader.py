"""Reading from the API server for the kubelet, which waits for the answer: claims, and at first the rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tessera.agent.claims import AllocatedClaim, ClaimKey, PrepareError, allocated_here
from tessera.api.names import DRIVER
from tessera.api.reasons import Reason
from tessera.kube.client import KubeClient
from tessera.kube.errors import ApiError, Forbidden, NotFound, Unreachable
from tessera.kube.resources import RESOURCE_CLAIMS

_RETRY_SECONDS = 0.5


@asynccontextmanager
async def before_the_first_look(what: str, *, timeout_seconds: float) -> AsyncIterator[None]:
    """In the block something is read that a look at the node would have read, were there one already.

    Raises `PrepareError` when that fails or takes longer.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            yield
    except (ApiError, Unreachable, TimeoutError) as error:
        raise PrepareError(
            Reason.RECONCILE_ERROR,
            f"the agent has just started and {what} could not be read: {error}; the kubelet will try again",
        ) from error


class ClaimReader:
    """Reads claims from the API server, patiently but never beyond the caller's deadline."""

    def __init__(self, client: KubeClient, *, node: str) -> None:
        self._client = client
        self._node = node

    async def read(self, key: ClaimKey, *, timeout_seconds: float) -> AllocatedClaim:
        """The claim's devices on this node.

        Raises `PrepareError` when it has none or cannot be read in time.
        """
        claim = await self._get(key, deadline=time.monotonic() + timeout_seconds)
        if claim["metadata"]["uid"] != key.uid:
            raise PrepareError(
                Reason.INVALID_REQUEST,
                f"claim {key} was made again (UID {claim['metadata']['uid']}, asked for {key.uid}); "
                "the pod must be made again too",
            )
        allocated = allocated_here(claim, node=self._node)
        if allocated is None:
            raise PrepareError(
                Reason.AWAITING_PLACEMENT,
                f"claim {key} has no device of {DRIVER} on node {self._node}; wait for its placement",
            )
        return allocated

    async def _get(self, key: ClaimKey, *, deadline: float) -> dict[str, Any]:
        while True:
            try:
                async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                    return await self._client.get(RESOURCE_CLAIMS, key.name, key.namespace)
            except NotFound:
                raise PrepareError(Reason.INVALID_REQUEST, f"claim {key} does not exist any more") from None
            except Forbidden as error:
                raise PrepareError(
                    Reason.RECONCILE_ERROR,
                    f"the agent may not read claim {key}: {error}; check its ClusterRole",
                ) from error
            except (ApiError, Unreachable, TimeoutError) as error:
                if time.monotonic() + _RETRY_SECONDS >= deadline:
                    raise PrepareError(
                        Reason.RECONCILE_ERROR, f"claim {key} could not be read from the API server: {error}"
                    ) from error
            await asyncio.sleep(_RETRY_SECONDS)

    async def exists(self, key: ClaimKey) -> bool:
        """Whether the API has the claim with that very UID. Raises `ApiError` or `Unreachable`."""
        try:
            claim = await self._client.get(RESOURCE_CLAIMS, key.name, key.namespace)
        except NotFound:
            return False
        return bool(claim["metadata"]["uid"] == key.uid)

    async def all_here(self) -> tuple[AllocatedClaim, ...]:
        """Every claim of the cluster that has devices on this node."""
        claims = await self._client.list(RESOURCE_CLAIMS)
        found = (allocated_here(claim, node=self._node) for claim in claims.items)
        return tuple(claim for claim in found if claim is not None)
