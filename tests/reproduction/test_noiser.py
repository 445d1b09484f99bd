"""NoiSER at its recorded setting, three seeds: the main figures of docs/results/noiser.md. Takes minutes.

`pytest -s -m reproduction tests/reproduction/test_noiser.py` prints them.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.reproduction, pytest.mark.timeout(1800)]
SEEDS = (0, 1, 2)
REPORTED = (
    "photos_improved",
    "ssim_noiser",
    "ssim_gain",
    "ssim_improvement",
    "psnr_noiser",
    "psnr_gain",
    "psnr_improvement",
    "night_sky_psnr_dark",
    "night_sky_psnr_noiser",
    "night_sky_psnr_shifted_true_mean",
    "night_sky_ssim_shifted_true_mean",
    "night_sky_psnr_shifted_white_point",
    "night_sky_ssim_shifted_white_point",
    "night_sky_psnr_constant_true_mean",
    "night_sky_psnr_gain_true_mean",
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return [train(seed, tmp_path_factory.mktemp(f"seed{seed}")) for seed in SEEDS]


def train(seed: int, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tessera_workloads.cli", "train", "noiser", "--size", "ci"]
    command += ["--seed", str(seed), "--out", str(out), "--port", "0"]
    ended = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert ended.returncode == 0
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


def test_every_gate_passes_for_every_seed(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert [check["name"] for check in result["checks"] if not check["passed"]] == []
    print_table(results)


def test_seeds_differ_and_share_their_test_data(results: list[dict[str, Any]]) -> None:
    assert len({result["weightsHash"] for result in results}) == len(SEEDS)
    assert len({result["dataHash"]["test"] for result in results}) == 1


def test_the_gray_world_failure_is_there_and_a_target_mean_repairs_it(results: list[dict[str, Any]]) -> None:
    for result in results:
        metrics = result["metrics"]
        assert metrics["night_sky_psnr_noiser"] < metrics["night_sky_psnr_dark"] - 8
        for repair in ("shifted_true_mean", "shifted_white_point"):
            assert metrics[f"night_sky_psnr_{repair}"] > metrics["night_sky_psnr_dark"]
            assert metrics[f"night_sky_ssim_{repair}"] > metrics["night_sky_ssim_constant_true_mean"]
        # Said plainly: who knows the true mean does better with one multiplication.
        assert metrics["night_sky_psnr_gain_true_mean"] > metrics["night_sky_psnr_shifted_true_mean"]


def print_table(results: list[dict[str, Any]]) -> None:
    print("\n| metric | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " | mean | spread |")
    print("|---" * (len(SEEDS) + 3) + "|")
    for name in REPORTED:
        values = [result["metrics"][name] for result in results]
        cells = [f"{value:.3f}" for value in [*values, statistics.mean(values), max(values) - min(values)]]
        print(f"| {name} | " + " | ".join(cells) + " |")
    seconds = [result["phases"][0]["seconds"] for result in results]
    print("| training seconds | " + " | ".join(f"{value:.1f}" for value in seconds) + " | | |")
