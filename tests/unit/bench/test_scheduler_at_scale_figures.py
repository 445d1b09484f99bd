"""The pure parts of the scale benchmark: what is asked for, first fit, and the arithmetic of its figures."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import pytest
from bench.scheduler_at_scale import main, measures, readings
from bench.scheduler_at_scale.cluster import simulated_gpus
from bench.scheduler_at_scale.first_fit import FirstFit
from bench.scheduler_at_scale.load import was_evicted
from bench.scheduler_at_scale.requests import demand, draw, pod
from tessera.agent.devices import Owner, slices_for
from tessera.gpu.device_names import decode
from tessera.scheduler.moving.victims import identity_of, is_replaceable
from tessera.scheduler.objects import read_pod


@pytest.fixture
def slices() -> list[dict[str, Any]]:
    """One node with one H100, as the agent publishes it."""
    return slices_for(Owner("n", "u"), simulated_gpus("n", 1), generation=1)


def test_the_mix_is_exact_and_the_order_follows_the_seed() -> None:
    requests = draw(1000, prefix="p", seed=3)
    assert Counter(r.profile for r in requests) == {"1g.10gb": 500, "2g.20gb": 300, "3g.40gb": 200}
    assert sum(r.movable for r in requests) == 300
    assert requests == draw(1000, prefix="p", seed=3)
    assert requests != draw(1000, prefix="p", seed=4)


def test_demand_reaches_the_slices_asked_for() -> None:
    total = sum(r.memory_slices for r in demand(333, prefix="p", seed=0))
    assert 333 <= total < 333 + 20


def test_only_a_pod_with_a_claim_is_gated() -> None:
    (request,) = draw(1, prefix="p", seed=0)
    assert pod(request, gated=True)["spec"]["schedulingGates"]
    assert not pod(type(request)("plain", None), gated=True)["spec"]["schedulingGates"]


def test_first_fit_fills_a_gpu_without_overlap_and_takes_back(slices: list[dict[str, Any]]) -> None:
    devices = FirstFit(slices)
    taken = [devices.take("3g.40gb"), devices.take("3g.40gb")]
    assert [decode(place[1]).start for place in taken if place] == [0, 4]
    assert devices.take("1g.10gb") is None
    assert taken[1] is not None
    devices.give_back(*taken[1])
    again = devices.take("1g.10gb")
    assert again is not None
    assert decode(again[1]).start == 4


def test_writes_are_counted_by_resource_and_only_when_they_succeeded() -> None:
    page = """\
# HELP apiserver_request_total x
apiserver_request_total{code="200",resource="resourceclaims",subresource="status",verb="PATCH"} 7
apiserver_request_total{code="409",resource="resourceclaims",subresource="status",verb="PATCH"} 2
apiserver_request_total{code="201",resource="pods",subresource="",verb="POST"} 3
apiserver_request_total{code="200",resource="pods",subresource="",verb="LIST"} 9
""".splitlines()
    assert readings.server_writes(page) == {"resourceclaims/status": 7, "pods": 3}


def test_own_writes_leave_reads_out() -> None:
    page = """\
tessera_api_requests_total{code="200",resource="pods",verb="patch"} 4.0
tessera_api_requests_total{code="200",resource="pods",verb="get"} 5.0
""".splitlines()
    assert readings.own_writes(page) == {"pods": 4}


def test_cpu_seconds_survive_a_name_with_parentheses() -> None:
    fields = " ".join(["S", *("0" for _ in range(10)), "150", "50", "0"])
    assert readings.cpu_seconds(f"1 (a) b) {fields}") == pytest.approx(2.0)


def test_a_cut_run_is_rated_over_the_whole_time() -> None:
    assert measures.rate([11.0, 12.0], began=10.0, cut_at=None) == 1.0
    assert measures.rate([11.0, 12.0], began=10.0, cut_at=14.0) == 0.5
    assert measures.rate([], began=10.0, cut_at=14.0) == 0.0


def test_percentiles_are_values_that_occurred() -> None:
    assert measures.percentile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert measures.percentile([], 0.5) is None


def test_usage_is_the_difference_per_pod() -> None:
    found = measures.usage(
        cpu=(
            {"allocator": 1.0, "kube-scheduler": 2.0, "kube-apiserver": 4.0},
            {"allocator": 1.1, "kube-scheduler": 5.0, "kube-apiserver": 6.0},
        ),
        rss_mib={"allocator": 90.0, "kube-scheduler": 200.0, "kube-apiserver": 400.0},
        server=(Counter(pods=10), Counter({"pods": 60, "pods/binding": 50, "events": 100, "leases": 9})),
        own=(Counter(), Counter(pods=50, resourceclaims=51, events=70)),
        pods=50,
    )
    assert found["cpu_kube_scheduler"] == 3.0
    assert found["allocator_cpu_ms_per_pod"] == pytest.approx(2.0)
    assert found["apiserver_cpu_ms_per_pod"] == pytest.approx(40.0)
    assert found["server_writes_per_pod"] == 2.0
    assert found["own_writes_per_pod"] == 2.02
    assert found["events_per_pod"] == 2.0


def test_a_slice_given_twice_is_seen() -> None:
    assert measures.overlapping([("n", "g", 0b0011), ("n", "g", 0b0100), ("m", "g", 0b0011)]) == 0
    assert measures.overlapping([("n", "g", 0b0011), ("n", "g", 0b0110)]) == 1


def test_medians_skip_runs_without_a_value() -> None:
    runs = [{"a": 1.0, "b": None}, {"a": 3.0, "b": None}, {"a": 9.0, "b": None}]
    assert measures.medians(runs) == {"a": 3.0, "b": None}
    assert measures.spread(runs) == {"a": (1.0, 9.0)}


def test_the_table_fits_80_columns_and_marks_what_is_missing() -> None:
    text = measures.table({"ours-ungated": {"bound": 5000.0, "p99_seconds": 1234.567}})
    assert max(map(len, text.splitlines())) <= 80
    assert "1234.57" in text
    assert text.splitlines()[2].split()[2] == "-"


def test_ratios_need_the_trivial_arm() -> None:
    alone: dict[str, dict[str, float | None]] = {"ours": {"pods_per_second": 9.0}}
    assert measures.beside_trivial(alone) == alone
    both = measures.beside_trivial({"trivial": {"pods_per_second": 10.0}, **alone})
    assert both["ours"]["pods_per_second_of_trivial"] == 0.9


def test_moves_are_counted_by_outcome() -> None:
    page = """\
tessera_moves_total{outcome="moved"} 4.0
tessera_moves_total{outcome="no_replacement"} 1.0
""".splitlines()
    assert readings.moves_by_outcome(page) == {"moved": 4, "no_replacement": 1}


def test_a_pod_of_a_job_is_one_that_the_scheduler_can_move() -> None:
    request = next(r for r in draw(10, prefix="p", seed=0) if r.movable)
    obj = pod(request, name="p-r1", gated=True, job_uid="u")
    obj["metadata"] |= {"namespace": "n", "uid": "v"}
    seen = read_pod(obj)
    assert is_replaceable(seen)
    assert identity_of(seen) == ("u", str(request.index), "slice")
    assert obj["metadata"]["name"] == "p-r1"


def test_only_an_eviction_is_followed_by_a_replacement() -> None:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    assert was_evicted({"status": {"conditions": [condition]}})
    assert not was_evicted({"status": {"conditions": [condition | {"reason": "PreemptionByScheduler"}]}})
    assert not was_evicted({})


def test_a_failed_arm_is_told_beside_the_figures_of_the_others() -> None:
    options = argparse.Namespace(out=None, json=False, profile=None, nodes=3)
    failure = {"arm": "native", "repetition": 0, "error": "RuntimeError: no"}
    result = main.summary(options, {"native": [], "trivial": [{"pods_per_second": 2.0}]}, [failure])
    assert result["failures"] == [failure]
    assert list(result["median"]) == ["trivial"]
    assert result["config"]["nodes"] == 3
