"""What the chart says after an installation works on any cluster, not only on a local one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[3]
NOTES = (REPOSITORY / "charts" / "tessera" / "templates" / "NOTES.txt").read_text()


def applied_objects() -> list[dict[str, Any]]:
    """The objects of all files and folders that a reader is told to apply."""
    named = [REPOSITORY / name for name in re.findall(r"kubectl apply -f (\S+)", NOTES)]
    assert named
    files = [file for path in named for file in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    return [each for file in files for each in yaml.safe_load_all(file.read_text()) if each]


def test_the_first_steps_need_no_storage_class_of_the_local_cluster() -> None:
    assert "tessera-local" not in json.dumps(applied_objects())


def test_the_first_steps_cut_gpus_and_train_a_job() -> None:
    assert {each["kind"] for each in applied_objects()} == {"MIGPartition", "HeterogeneousTrainingJob"}


def test_a_volume_and_a_profile_that_a_job_needs_are_named() -> None:
    jobs = [each["spec"] for each in applied_objects() if each["kind"] == "HeterogeneousTrainingJob"]
    for spec in jobs:
        assert spec["output"]["persistentVolumeClaim"] in NOTES
        assert spec["resources"]["slice"]["profile"] in NOTES
