"""Every value of the chart is described, has a schema, and is in its README; names agree with the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tessera.api import names
from tessera.gpu.profiles import boards, models
from tessera.placement.policies import POLICIES

REPOSITORY = Path(__file__).resolve().parents[3]
CHART = REPOSITORY / "charts" / "tessera"
LINE = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z0-9_./-]+):(?: +(?P<value>.*))?$")


def described_values(text: str) -> Iterator[tuple[str, str]]:
    """(path, description) of every value that has a `# --` comment, in the order of the file."""
    path: list[tuple[int, str]] = []
    description = ""
    for line in text.splitlines():
        if line.strip().startswith("# -- "):
            description = line.strip().removeprefix("# -- ")
        elif match := LINE.match(line):
            indent = len(match["indent"])
            path = [(depth, key) for depth, key in path if depth < indent] + [(indent, match["key"])]
            if description:
                yield ".".join(key for _, key in path), description
                description = ""


def value_at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[key]
    return values


def readme_table(text: str) -> str:
    """The table of values in README.md, made from the comments of values.yaml."""
    values = yaml.safe_load(text)
    rows = ["| value | default | what it is |", "|---|---|---|"]
    for path, description in described_values(text):
        default = json.dumps(value_at(values, path))
        rows.append(f"| `{path}` | `{default}` | {description} |")
    return "\n".join(rows)


def leaves(values: Any, described: set[str], prefix: str = "") -> Iterator[str]:
    """Paths of all values down to the described ones; what lies inside a described map is the user's."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if path in described or not (isinstance(value, dict) and value):
            yield path
        else:
            yield from leaves(value, described, f"{path}.")


@pytest.fixture(scope="module")
def values_text() -> str:
    return (CHART / "values.yaml").read_text()


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return loaded


def test_every_value_is_described(values_text: str) -> None:
    described = dict(described_values(values_text))
    assert [
        path for path in leaves(yaml.safe_load(values_text), set(described)) if path not in described
    ] == []


def test_the_readme_lists_every_value(values_text: str) -> None:
    readme = (CHART / "README.md").read_text()
    begin, end = "<!-- values: begin -->\n", "\n<!-- values: end -->"
    table = readme.split(begin)[1].split(end)[0]
    assert table == readme_table(values_text), f"put this table into README.md:\n{readme_table(values_text)}"


def test_every_value_has_a_schema_and_every_schema_a_value(values_text: str, schema: dict[str, Any]) -> None:
    described = set(dict(described_values(values_text)))
    in_values = set(leaves(yaml.safe_load(values_text), described))

    def schema_paths(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for key, child in node["properties"].items():
            path = f"{prefix}{key}"
            if "properties" in child and path not in described:
                yield from schema_paths(child, f"{path}.")
            else:
                yield path

    assert set(schema_paths(schema)) == in_values


def test_no_object_of_the_schema_is_open_by_oversight(schema: dict[str, Any]) -> None:
    """An unknown key must be an error, or a typing error in a values file goes unseen."""
    passed_on_to_kubernetes = {
        "/properties/global",
        "/$defs/affinity/properties/nodeAffinity",
        "/$defs/affinity/properties/podAffinity",
        "/$defs/affinity/properties/podAntiAffinity",
        "/properties/networkPolicy/properties/metricsFrom/items/properties/namespaceSelector",
        "/properties/networkPolicy/properties/metricsFrom/items/properties/podSelector",
        "/properties/networkPolicy/properties/metricsFrom/items/properties/ipBlock",
    }

    def open_objects(node: Any, path: str) -> Iterator[str]:
        if isinstance(node, dict):
            if node.get("type") == "object" and "additionalProperties" not in node:
                yield path
            for key, child in node.items():
                yield from open_objects(child, f"{path}/{key}")

    assert set(open_objects(schema, "")) == passed_on_to_kubernetes


def test_the_chart_spells_names_as_the_code_does() -> None:
    spelled = dict(
        re.findall(
            r'define "tessera\.(\w+)" -}}([^{}\n]+){{- end }}',
            (CHART / "templates" / "_names.tpl").read_text(),
        )
    )
    assert spelled == {
        "group": names.GROUP,
        "driver": names.DRIVER,
        "deviceClass": names.DEVICE_CLASS,
        "deviceTaintKey": names.DEVICE_TAINT_KEY,
        "placementGate": names.PLACEMENT_GATE,
        "namespaceGateLabel": names.NAMESPACE_GATE_LABEL,
        "movableAnnotation": names.MOVABLE_ANNOTATION,
        "moveAnnotation": names.MOVE_ANNOTATION,
        "roomAnnotation": names.ROOM_ANNOTATION,
        "claimFinalizer": names.CLAIM_FINALIZER,
        "operatorServiceAccount": names.OPERATOR_SERVICE_ACCOUNT,
        "schedulerServiceAccount": names.SCHEDULER_SERVICE_ACCOUNT,
        "agentServiceAccount": names.AGENT_SERVICE_ACCOUNT,
        "fleetServiceAccount": "tessera-fleet",
        "operatorLease": names.OPERATOR_LEASE,
        "schedulerLease": names.SCHEDULER_LEASE,
    }


def test_the_chart_has_the_version_of_the_distribution() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (REPOSITORY / "operator" / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert version is not None
    assert (chart["version"], chart["appVersion"]) == (version[1], version[1])


def test_the_agents_nodes_are_chosen_by_the_label_of_the_code(values_text: str) -> None:
    assert yaml.safe_load(values_text)["agent"]["nodeSelector"] == {names.GPU_NODE_LABEL: "true"}


def test_the_chart_offers_the_policies_that_the_scheduler_has(schema: dict[str, Any]) -> None:
    assert schema["properties"]["scheduler"]["properties"]["policy"]["enum"] == sorted([*POLICIES, "default"])


def test_the_chart_offers_the_models_that_the_simulator_has(schema: dict[str, Any]) -> None:
    """A misspelt model is refused by helm, not found in a log of the agent."""
    simulator = schema["properties"]["agent"]["properties"]["simulator"]["properties"]
    assert simulator["model"]["enum"] == sorted(set(models()) & set(boards()))
    assert simulator["count"]["minimum"] == 1
