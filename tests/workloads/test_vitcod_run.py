"""ViTCoD as a pod would run it: all arms, a stop while the pruned one trains, the sparse execution."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tessera_workloads.vitcod.cores import GatherCore
from tessera_workloads.vitcod.flex import FlexCore
from tessera_workloads.vitcod.latency import largest_difference
from tessera_workloads.vitcod.masks import polarised

SETTINGS = {
    "width": 16,
    "layers": 2,
    "batch": 8,
    "dense_steps": 20,
    "coder_steps": 10,
    "sparse_steps": 60,
}


@pytest.mark.timeout(300)
def test_a_run_that_is_stopped_while_it_prunes_ends_like_one_that_was_not(
    tmp_path: Path, run_twice: Callable[..., Any]
) -> None:
    runs = run_twice(
        "vitcod",
        SETTINGS,
        until=lambda seen: seen["phase"] == "sparse" and seen["step"] >= 1,
        what="the pruned phase",
    )
    assert set(runs.codes) <= {0, 3}  # latency is a gate, and other tests run beside this one
    resumed = runs.resumed
    same = {name: value for name, value in resumed["metrics"].items() if "ratio" not in name}
    assert same.items() <= runs.uninterrupted["metrics"].items()

    phases = ["dense", "continued", "autoencoder", "sparse", "random"]
    assert [phase["name"] for phase in resumed["phases"]] == phases
    untimed = [
        check for check in resumed["checks"] if check["kind"] == "gate" and "latency" not in check["name"]
    ]
    assert len(untimed) == 7
    assert all(check["passed"] for check in untimed if "points" not in check["name"]), untimed
    assert same["accuracy_executed"] == same["accuracy_sparse"]
    assert same["sparsity_random"] == same["sparsity_sparse"] == pytest.approx(0.9, abs=0.01)
    assert {row["core"] for row in resumed["tables"]["cores"]} == {"trained", "n256", "n1024"}
    assert (tmp_path / "stopped" / "masks.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_flex_core_computes_what_the_gather_core_computes() -> None:
    """Here and not among the unit tests, because FlexAttention imports torch's compiler."""
    generator = torch.Generator().manual_seed(0)
    mask = polarised(2, 33, parts=8, columns=3, sparsity=0.7, generator=generator)
    query, key, value = torch.randn((3, 2, 2, 33, 8), generator=generator)
    expected = GatherCore(mask)(query, key, value)
    assert largest_difference(FlexCore(mask)(query, key, value), expected) <= 1e-6
