"""Every manifest that we show anybody is accepted by a real API server, with strict field validation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tessera.kube.client import KubeClient
from tessera.kube.resources import resource_for

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)


def manifests() -> list[Any]:
    """Every object of examples/, and of the YAML blocks of README.md and docs/."""
    sources = [
        (path, path.read_text(encoding="utf-8")) for path in sorted((ROOT / "examples").rglob("*.yaml"))
    ]
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        if page.is_file():
            sources += [(page, block) for block in YAML_BLOCK.findall(page.read_text(encoding="utf-8"))]
    found = []
    for path, text in sources:
        if "apiVersion:" not in text:
            continue
        for document in yaml.safe_load_all(text):
            if document and "apiVersion" in document and "kind" in document:
                name = f"{path.relative_to(ROOT)}: {document['kind']} {document['metadata']['name']}"
                found.append(pytest.param(document, id=name))
    return found


def test_there_are_examples_of_every_kind() -> None:
    kinds = {parameter.values[0]["kind"] for parameter in manifests()}
    assert {"MIGPartition", "GPUNode", "HeterogeneousTrainingJob", "PersistentVolumeClaim"} <= kinds


@pytest.mark.parametrize("manifest", manifests())
async def test_the_api_server_accepts_it(admin: KubeClient, manifest: dict[str, Any]) -> None:
    resource = resource_for(manifest)
    namespace = manifest["metadata"].get("namespace", "default") if resource.namespaced else None
    await admin.create(resource, manifest, namespace=namespace, strict=True, dry_run=True)
