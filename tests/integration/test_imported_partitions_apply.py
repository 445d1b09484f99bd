"""Every form of mig-parted's default file becomes MIGPartitions that the API server takes as they are."""

from __future__ import annotations

from typing import Any

import pytest
from mig_parted_file import mig_parted_file
from tessera.kube.client import KubeClient
from tessera.kube.resources import MIG_PARTITIONS
from tessera.relayout.partitions import as_partitions
from tessera.relayout.wanted import parse_mig_parted

pytestmark = pytest.mark.integration


def manifests() -> tuple[dict[str, Any], ...]:
    configurations = parse_mig_parted(mig_parted_file(), source="file", every=True)
    return as_partitions(configurations, source="file", labels={"pool": "a"}, by_label=True).manifests


async def test_the_api_server_accepts_every_imported_partition(admin: KubeClient) -> None:
    for manifest in manifests():
        stored = await admin.create(MIG_PARTITIONS, manifest, strict=True, dry_run=True)
        assert stored["spec"].items() >= manifest["spec"].items(), manifest["metadata"]["name"]
