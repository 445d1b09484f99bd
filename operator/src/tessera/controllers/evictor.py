"""Evict the pods that a plan names, as PodDisruptionBudgets allow.

A reconciliation names a pod as long as it holds its slice; it is asked to leave now and then only. Who was
asked when is in memory: what is lost by a restart is one more question.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tessera.api.reasons import Reason
from tessera.controllers.plan import Eviction, Object
from tessera.kube.client import KubeClient
from tessera.kube.errors import ApiError, Conflict, NotFound
from tessera.kube.events import EventRecorder
from tessera.kube.resources import PODS

_AGAIN_SECONDS = 9.0
"""A pod that was evicted takes its time to end, and a budget to allow more."""

_log = logging.getLogger(__name__)


class Evictor:
    """Asks the API server, and tells the pod and the object that wants its room."""

    def __init__(
        self, client: KubeClient, events: EventRecorder, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._events = events
        self._clock = clock
        self._asked: dict[str, float] = {}

    async def evict(self, eviction: Eviction, *, wanted_by: Object) -> None:
        """Ask for the eviction, unless that was done a moment ago.

        Raises ApiError and Unreachable: try again.
        """
        pod, now = eviction.pod, self._clock()
        self._asked = {uid: at for uid, at in self._asked.items() if now - at < _AGAIN_SECONDS}
        if pod.uid in self._asked:
            return
        try:
            await self._client.evict(pod.name, namespace=pod.namespace, uid=pod.uid)
        except (NotFound, Conflict) as error:
            _log.info("pod %s is gone: %s", pod, error)
        except ApiError as error:
            if not error.disruption_budget:
                raise
            self._events.emit(
                wanted_by,
                type="Warning",
                reason=Reason.EVICTION_REFUSED,
                action="Evict",
                message=f"pod {pod} may not be evicted for now: its PodDisruptionBudget refuses "
                f"({error.disruption_budget}); it is asked again",
            )
        else:
            _log.info("evicted pod %s: %s", pod, eviction.why)
            regarding = {
                "apiVersion": "v1",
                "kind": PODS.kind,
                "metadata": {"namespace": pod.namespace, "name": pod.name, "uid": pod.uid},
            }
            self._events.emit(
                regarding, type="Normal", reason=Reason.DRAINED, action="Evict", message=eviction.why
            )
        self._asked[pod.uid] = now
