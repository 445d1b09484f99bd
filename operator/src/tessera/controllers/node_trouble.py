"""What keeps nodes from offering their GPUs, in the words of their agents; and nodes that are gone.

Partitions and training jobs that find no GPU say the same thing about it: the first node whose `GPUNode` is
not Ready, with the agent's reason, its message and remedy.
"""

from __future__ import annotations

from collections.abc import Mapping

from tessera.api.reasons import Reason
from tessera.controllers.plan import Object
from tessera.kube.conditions import find_condition


def node_trouble(gpu_nodes: Mapping[str, Object]) -> tuple[Reason, str] | None:
    """Reason and message of the first node (by name) that is not ready, with the number of the others; None
    when all are ready.

    A node that has said what is wrong goes before one that has said nothing yet.
    """
    silent: list[str] = []
    told: list[tuple[Reason, str]] = []
    for name, gpu_node in sorted(gpu_nodes.items()):
        ready = find_condition((gpu_node.get("status") or {}).get("conditions"), "Ready")
        if ready is None:
            silent.append(name)
        elif ready.get("status") != "True":
            word = str(ready.get("reason") or "")
            reason = Reason(word) if word in set(Reason) else Reason.NVML_ERROR
            told.append((reason, f"node {name}: {ready.get('message') or reason}"))
    if not told and not silent:
        return None
    if told:
        reason, message = told[0]
    else:
        reason, message = Reason.RECONCILING, f"the agent of node {silent[0]} has not reported yet"
    others = len(told) + len(silent) - 1
    nodes = "node is" if others == 1 else "nodes are"
    return reason, message + (f" ({others} more {nodes} not ready)" if others else "")


def is_silent(node: Object) -> bool:
    """Whether the node's kubelet has stopped reporting: nobody there does anything now.

    A kubelet that was never there (simulated nodes) is none that has stopped.
    """
    ready = find_condition((node.get("status") or {}).get("conditions"), "Ready")
    return ready is not None and ready.get("reason") == "NodeStatusUnknown"
