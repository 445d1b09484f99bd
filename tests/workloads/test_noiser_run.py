"""NoiSER, trained and evaluated as a pod would do it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.mark.timeout(300)
def test_one_seed_passes_every_gate_and_leaves_a_whole_result(
    tmp_path: Path, start_worker: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    worker = start_worker("train", "noiser", "--set", "steps=500", "--set", "crop=48", "--out", str(out))
    code, termination = worker.finish()
    result = json.loads((out / "result.json").read_text())
    assert code == 0, result["checks"]
    assert termination["outcome"] == "complete"
    assert termination["checks"] == {"passed": 5, "failed": 0}
    assert termination["resultPath"] == str(out / "result.json")
    assert termination["metrics"]["parameters"] == 1763

    assert result["outcome"] == "complete"
    assert {check["kind"] for check in result["checks"]} == {"gate", "control", "report"}
    assert [row["photo"] for row in result["tables"]["photos"]] == [
        "astronaut",
        "chelsea",
        "coffee",
        "rocket",
        "ihc",
    ]
    sky = {row["picture"]: row for row in result["tables"]["night_sky"]}
    assert sky["noiser"]["psnr"] < sky["dark"]["psnr"] - 8, "the gray-world failure is part of what is known"
    assert sky["noiser"]["mean"] == pytest.approx(0.5, abs=0.05)
    assert sky["shifted true mean"]["psnr"] > sky["dark"]["psnr"]
    assert result["device"]["slice"] is None
    assert result["threads"] == 1
    assert set(result["versions"]) >= {"python", "torch", "tessera-workloads", "numpy", "scikit-image"}
    assert len(result["dataHash"]["train"]) == len(result["dataHash"]["test"]) == 64
    # Three hidden activations of 32 x 48 x 48 floats at the least, and far below what the process holds.
    assert 3 * 32 * 48 * 48 * 4 < result["peakTensorBytes"] < 8 * 2**20 < result["peakResidentBytes"]
    assert result["phases"][0]["samples"] == 500
    for name in result["files"]:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert (out / "weights.pt").stat().st_size > 1763 * 4

    configuration = ["noiser", "--set", "steps=500", "--set", "crop=48", "--out", str(out)]
    again = start_worker("evaluate", *configuration)
    answer = start_worker("infer", *configuration, "--file", str(out / "images" / "coffee_dark.png"))
    assert again.finish()[0] == answer.finish()[0] == 0
    for name in ("evaluation.json", "inference.json"):
        assert json.loads((out / name).read_text())["weightsHash"] == result["weightsHash"]
    # Eight bits are all that the file keeps of the picture that was evaluated.
    enhanced, evaluated = (
        np.asarray(Image.open(out / name), dtype=float)
        for name in ("enhanced.png", "images/coffee_noiser.png")
    )
    assert np.abs(enhanced - evaluated).mean() < 5
