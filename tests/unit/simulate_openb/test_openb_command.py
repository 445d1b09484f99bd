"""`tessera simulate trace` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tessera.api.errors import TesseraError
from tessera.cli.simulate_trace import command

NODES = "sn,cpu_milli,memory_mib,gpu,model\n" + "".join(f"n-{i},32000,9999,4,G2\n" for i in range(6))
PODS = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\n" + "".join(
    f"p-{i:02},{cpu},1,{gpus},{milli}\n"
    for i, (cpu, gpus, milli) in enumerate(
        [(3000, 1, 810), (8000, 1, 1000), (6000, 1, 470), (4000, 0, 0)] * 8
    )
)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    nodes, pods = tmp_path / "nodes.csv", tmp_path / "openb_pod_list_tiny.csv"
    nodes.write_text(NODES)
    pods.write_text(PODS)
    return ["--nodes", str(nodes), "--pods", str(pods)]


def report(files: list[str], *more: str) -> dict[str, Any]:
    result = CliRunner().invoke(command, [*files, *more, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_one_json_object_with_every_level(files: list[str]) -> None:
    answer = report(files, "--seeds", "3")
    assert answer["config"]["seeds"] == [42, 43, 44]
    assert [run["policy"] for run in answer["runs"]] == ["expected_fill"] * 3
    for key in ("allocation_pct", "fragmentation_pct"):
        assert {key, *(f"{key}_{level}" for level in (90, 100, 110, 130))} <= set(answer["mean"])
    assert answer["mean"]["allocation_pct"] == answer["mean"]["allocation_pct_130"]
    assert answer["ci95"]["allocation_pct"] >= 0
    idle = sum(answer["mean"]["unallocated_pct"].values())
    assert idle + answer["mean"]["allocation_pct"] == pytest.approx(100)


def test_policies_are_compared_on_the_same_draws(files: list[str]) -> None:
    answer = report(files, "--seeds", "2", "--policy", "all")
    assert len(answer["runs"]) == 22
    assert answer["mean"]["fgd"]["gain_over_fgd_pct"] == 0
    result = CliRunner().invoke(command, [*files, "--seeds", "2", "--policy", "fgd", "--policy", "default"])
    assert "expected_fill" in result.stdout
    assert "over fgd" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_the_constants_of_the_default_can_be_given(files: list[str]) -> None:
    policy = "expected_fill:stop_chance=0.5,sharpness=1"
    answer = report(files, "--seeds", "1", "--policy", policy)
    assert [run["policy"] for run in answer["runs"]] == [policy]


def test_levels_beyond_the_demand_are_left_out(files: list[str]) -> None:
    mean = report(files, "--seeds", "1", "--tune", "1.0")["mean"]
    assert "allocation_pct_100" in mean
    assert "allocation_pct_110" not in mean


def test_the_order_of_the_file_can_decide_between_equal_nodes(files: list[str]) -> None:
    published, by_name = (
        report(files, "--seeds", "1", "--policy", "first_fit", "--node-order", order)["config"]
        for order in ("published", "file")
    )
    assert (published["node_order"], by_name["node_order"]) == ("published", "file")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--policy", "mcc", "no policy"),
        ("--policy", "expected_fill:lag=1", "lag=1"),
        ("--tune", "-1", "--tune"),
    ],
)
def test_bad_options_are_one_clear_error(files: list[str], option: str, value: str, said: str) -> None:
    with pytest.raises(TesseraError, match=said):
        CliRunner().invoke(command, [*files, option, value], catch_exceptions=False)
