"""What a process's `/metrics` says, as numbers.

Every process serves the whole table of metrics, so the name of one proves nothing: it stands there also when
nobody has ever moved it. Samples do: a metric with labels has none until its owner has used it.
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import pytest
from as_a_user import SYSTEM, Kubectl
from prometheus_client.parser import text_string_to_metric_families
from tessera.kube.resources import PODS


@dataclass(frozen=True)
class Scrape:
    """The samples of one process."""

    samples: tuple[tuple[str, Mapping[str, str], float], ...]

    @classmethod
    def parse(cls, body: str) -> Scrape:
        """Reads the text format."""
        families = text_string_to_metric_families(body)
        return cls(tuple((s.name, s.labels, s.value) for family in families for s in family.samples))

    def values(self, name: str, **labels: str) -> list[float]:
        """All samples of that name which have these labels (and maybe more)."""
        return [
            value
            for sample, found, value in self.samples
            if sample == name and labels.items() <= found.items()
        ]


Process = list[Scrape]
"""One scrape per replica."""


def values(process: Process, name: str, **labels: str) -> list[float]:
    """The samples of all replicas."""
    return [value for scrape in process for value in scrape.values(name, **labels)]


def total(process: Process, name: str, **labels: str) -> float:
    """Their sum; 0 when there is none."""
    return sum(values(process, name, **labels))


def scrape(kubectl: Kubectl, component: str) -> Process:
    """Every replica of a component of Tessera, over the network as Prometheus does it."""
    pods = kubectl.in_namespace(SYSTEM).items(PODS, f"app.kubernetes.io/component={component}")
    living = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    assert living, f"no pod of component {component}"
    bodies = []
    for pod in living:
        with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8080/metrics", timeout=5) as answer:
            bodies.append(answer.read().decode())
    return [Scrape.parse(body) for body in bodies]


def wait_until_true(
    look: Callable[[], Process], wanted: Mapping[str, Callable[[Process], bool]], *, seconds: float = 40
) -> Process:
    """Scrapes until all of `wanted` holds at one moment; fails with those that do not, and with the samples
    of the metrics that they name.
    """
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        broken = [what for what, holds in wanted.items() if not holds(seen)]
        if not broken:
            return seen
        if time.monotonic() > deadline:
            pytest.fail(
                f"metrics after {seconds:.0f} s: not true: {broken}\n" + "\n".join(_about(seen, broken))
            )
        time.sleep(0.5)


def _about(process: Process, broken: Iterable[str]) -> list[str]:
    words = {word for what in broken for word in what.split()}
    return [
        f"replica {number}: {name}{dict(labels)} {value}"
        for number, one in enumerate(process)
        for name, labels, value in one.samples
        if name in words
    ]
