"""What every CRD must be, whatever its kind: structural, bounded, with conditions of the usual shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tessera.api.crd import KINDS, chart_template, crd, crd_yaml, structural_schema
from tessera.api.meta import ApiModel, Kind
from tessera.api.names import PROFILE_PATTERN
from tessera.api.reasons import Reason
from tessera.api.reference import reasons_page
from tessera.cli.generate import find_root, generated_files

BY_KIND = [pytest.param(kind, id=kind.kind) for kind in KINDS]


def root_of(kind: Kind) -> dict[str, Any]:
    (version,) = crd(kind)["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


def own_nodes(kind: Kind) -> list[tuple[str, dict[str, Any]]]:
    properties = root_of(kind)["properties"]
    return [pair for part in ("spec", "status") for pair in nodes(properties[part], part)]


@pytest.mark.parametrize("kind", BY_KIND)
def test_every_string_list_and_map_is_bounded(kind: Kind) -> None:
    for path, node in own_nodes(kind):
        if node.get("type") == "string" and "enum" not in node and node.get("format") != "date-time":
            assert "maxLength" in node, path
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


@pytest.mark.parametrize("kind", BY_KIND)
def test_schemas_hold_only_what_the_api_server_takes(kind: Kind) -> None:
    text = crd_yaml(kind)
    for word in ("$ref", "anyOf", "oneOf", "allOf", "title:", "discriminator", "nullable"):
        assert word not in text
    for path, node in own_nodes(kind):
        free = node.get("x-kubernetes-int-or-string") or node.get("x-kubernetes-preserve-unknown-fields")
        assert "type" in node or free, path


@pytest.mark.parametrize("kind", BY_KIND)
def test_every_field_is_described_and_every_rule_says_what_to_do(kind: Kind) -> None:
    for path, node in own_nodes(kind):
        if not path.endswith("[]"):
            assert node.get("description"), path
        for rule in node.get("x-kubernetes-validations", ()):
            assert rule.get("message"), f"{path}: {rule['rule']}"


@pytest.mark.parametrize("kind", BY_KIND)
def test_conditions_are_a_map_by_type_and_observed_generation_is_there(kind: Kind) -> None:
    status = root_of(kind)["properties"]["status"]["properties"]
    conditions = status["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert set(conditions["items"]["required"]) == {"type", "status", "reason", "lastTransitionTime"}
    assert status["observedGeneration"]["type"] == "integer"
    assert "phase" not in status


@pytest.mark.parametrize("kind", BY_KIND)
def test_kubectl_get_answers_in_at_most_six_columns(kind: Kind) -> None:
    (version,) = crd(kind)["spec"]["versions"]
    columns = version["additionalPrinterColumns"]
    assert len(columns) <= 6
    assert columns[-1]["name"] == "Age"
    assert any("Ready" in column["jsonPath"] for column in columns)
    assert version["subresources"] == {"status": {}}
    assert crd(kind)["spec"]["names"]["categories"] == ["tessera"]


def test_the_spec_of_a_training_job_changes_only_where_a_checkpoint_allows_it() -> None:
    (kind,) = [kind for kind in KINDS if kind.kind == "HeterogeneousTrainingJob"]
    rules = " ".join(rule.rule for rule in kind.spec.rules)
    fields = {field.alias or name for name, field in kind.spec.model_fields.items()}
    frozen = {field for field in fields if f"self.{field} == oldSelf.{field}" in rules}
    assert fields - frozen == {"suspend", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"}


def test_a_union_that_no_schema_can_say_is_an_error_and_not_a_hole() -> None:
    class Either(ApiModel):
        value: int | str

    with pytest.raises(ValueError, match=r"Either\.value: a structural schema cannot say"):
        structural_schema(Either)


@pytest.mark.parametrize("kind", BY_KIND)
def test_the_chart_holds_the_same_crd(kind: Kind) -> None:
    lines = [line for line in chart_template(kind).splitlines() if "{{" not in line]
    rendered = yaml.safe_load("\n".join(lines))
    annotations = rendered["metadata"].pop("annotations")
    assert annotations == {"helm.sh/resource-policy": "keep"}
    assert rendered == crd(kind)


def test_generated_files_are_up_to_date(request: pytest.FixtureRequest) -> None:
    root = find_root(request.path.parent)
    stale = [
        str(path)
        for path, content in generated_files().items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != content
    ]
    assert stale == [], "run `make generate`"


def test_reasons_are_words_that_a_condition_may_hold() -> None:
    for reason in Reason:
        assert reason.isidentifier()
        assert reason[0].isupper()


def test_every_reason_has_a_meaning_for_the_reference_page() -> None:
    page = reasons_page()
    for reason in Reason:
        assert f"| `{reason}` | " in page


@pytest.mark.parametrize(
    "name", ["1g.5gb", "7g.141gb", "1g.10gb+me", "1g.24gb-me", "1g.24gb+me.all", "2g.48gb+gfx", "10g.100gb"]
)
def test_every_spelling_of_nvidia_is_a_profile(name: str) -> None:
    import re

    assert re.fullmatch(PROFILE_PATTERN.strip("^$"), name)
