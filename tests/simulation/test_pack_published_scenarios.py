"""ParvaGPU's six scenarios: never more GPUs than its published deployments, fewer where that is possible."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from tessera.packing.greedy import greedy_gpus
from tessera.packing.requests import pack_requests
from tessera.packing.service_file import parse_services
from tessera.packing.service_plan import pack_services
from tessera.packing.services import Question

DATA = Path(__file__).resolve().parents[2] / "data" / "parvagpu"
# Scenario: GPUs of the published deployment (counted in published.csv), of the proven optimum.
GPUS = {1: (2, 2), 2: (3, 3), 3: (5, 5), 4: (7, 7), 5: (13, 12), 6: (16, 15)}


def question_of(scenario: int) -> Question:
    name = f"slo{scenario}.yaml"
    return parse_services((DATA / name).read_text(), source=name, read=lambda file: (DATA / file).read_text())


def published(scenario: int) -> list[dict[str, str]]:
    with (DATA / "published.csv").open() as source:
        return [row for row in csv.DictReader(source) if int(row["scenario"]) == scenario]


@pytest.mark.parametrize("scenario", GPUS)
def test_scenario_is_solved_to_the_optimum(scenario: int) -> None:
    deployed, optimum = GPUS[scenario]
    assert len({row["gpu"] for row in published(scenario)}) == deployed
    question = question_of(scenario)
    plan = pack_services(question)
    assert plan.proof.optimal
    assert plan.gpus == optimum
    greedy = greedy_gpus(question)
    assert greedy is not None
    assert greedy >= optimum


@pytest.mark.parametrize("scenario", GPUS)
def test_published_deployments_hold_their_rates_and_bounds(scenario: int) -> None:
    """The same data and rules make the published deployments valid: the comparison is fair."""
    question = question_of(scenario)
    measured = {(m.workload, m.profile, m.batch, m.processes): m for m in question.measurements}
    held: Counter[str] = Counter()
    for row in published(scenario):
        m = measured[row["workload"], row["profile"], int(row["batch"]), int(row["processes"])]
        held[row["workload"]] += m.throughput_per_second  # type: ignore[assignment]
        service = next(s for s in question.services if s.workload == m.workload)
        assert m.latency_ms <= service.slo_ms * question.head_room.latency_share
    assert all(held[s.workload] >= s.rate_per_second for s in question.services)


@pytest.mark.parametrize("scenario", GPUS)
def test_published_slices_fit_on_as_many_gpus_at_legal_starts(scenario: int) -> None:
    """Starts of the published files overlap, but each GPU's slices do fit on one GPU."""
    pools = question_of(scenario).pools
    gpus: dict[str, Counter[str]] = defaultdict(Counter)
    for row in published(scenario):
        gpus[row["gpu"]][row["profile"]] += 1
    assert all(pack_requests(pools, slices).gpus == 1 for slices in gpus.values())


def test_sharing_slices_saves_gpus_where_rates_are_low() -> None:
    plan = pack_services(replace(question_of(3), share_slices=True))
    assert plan.proof.optimal
    assert plan.gpus == 4
