"""A file of mig-parted becomes MIGPartitions that say the same, or is refused with the reason."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from mig_parted_file import UNKNOWN_BOARD, configurations, mig_parted_file
from tessera.api.names import MIG_MANAGER_CONFIG_LABEL
from tessera.relayout.errors import BadLayout
from tessera.relayout.partitions import Imported, as_partitions
from tessera.relayout.wanted import Rule, parse_mig_parted

OFF = "[{devices: all, mig-enabled: false}]"


@cache
def whole_file() -> dict[str, tuple[Rule, ...]]:
    return parse_mig_parted(mig_parted_file(), source="f", every=True)


def imported(config: str) -> Imported:
    return as_partitions({config: whole_file()[config]}, source="f", labels={})


def specs(config: str) -> dict[str, Any]:
    return {manifest["metadata"]["name"]: manifest["spec"] for manifest in imported(config).manifests}


def of_entries(entries: str) -> Imported:
    configs = parse_mig_parted(f"version: v1\nmig-configs: {{a: {entries}}}", source="f")
    return as_partitions(configs, source="f", labels={})


def test_mig_off_is_the_mig_mode_and_no_layout() -> None:
    assert specs("all-disabled") == {"all-disabled": {"mode": "dynamic", "migMode": "Disabled"}}
    assert imported("all-disabled").notes == ()


def test_mig_on_without_instances_is_cut_on_demand_and_said() -> None:
    assert specs("all-enabled") == {"all-enabled": {"mode": "dynamic", "migMode": "Enabled"}}
    assert imported("all-enabled").notes == (
        "f: all-enabled[0]: MIG mode on without instances; slices will be cut when a pod needs them",
    )


def test_instances_are_a_fixed_layout_with_counts() -> None:
    assert specs("all-1g.24gb.gfx") == {
        "all-1g.24gb.gfx": {
            "mode": "static",
            "static": {"layout": [{"profile": "1g.24gb+gfx", "count": 4}]},
            "migMode": "Enabled",
        }
    }


def test_device_filters_are_models_and_each_entry_is_a_partition() -> None:
    made = specs("all-1g.10gb")
    assert {name: spec["gpus"] for name, spec in made.items()} == {
        "all-1g.10gb-0": {"models": ["H100-80GB"]},
        "all-1g.10gb-1": {"models": ["A100-40GB"]},
    }
    assert imported("all-1g.10gb").notes == ()


def test_indices_are_indexes() -> None:
    assert [spec["gpus"] for spec in specs("by-index").values()] == [{"indexes": [0, 1]}, {"indexes": [2]}]


def test_boards_that_are_left_out_are_named() -> None:
    (note,) = imported("all-balanced").notes
    assert UNKNOWN_BOARD in note and "0x2342" not in note
    assert len(specs("all-balanced")) == len(configurations()["all-balanced"])


def test_a_filter_that_means_only_some_boards_of_a_model_is_noted() -> None:
    (note,) = of_entries("[{devices: all, device-filter: '0x233510DE', mig-enabled: false}]").notes
    assert "H200-141GB means those with the PCI id 0x233B10DE too" in note


def test_the_config_map_of_the_gpu_operator_is_the_file() -> None:
    text = f"mig-configs: {{a: {OFF}}}"
    inside = json.dumps({"kind": "ConfigMap", "data": {"other": "[]", "config.yaml": text}})
    assert parse_mig_parted(inside, source="f") == parse_mig_parted(text, source="f")


def test_by_label_every_configuration_is_for_the_nodes_that_ask_for_it() -> None:
    made = as_partitions(whole_file(), source="f", labels={"pool": "a"}, by_label=True).manifests
    assert len(made) == sum(map(len, configurations().values()))
    selected = {
        (labels["pool"], labels[MIG_MANAGER_CONFIG_LABEL])
        for labels in (manifest["spec"]["nodeSelector"]["matchLabels"] for manifest in made)
    }
    assert selected == {("a", name) for name in configurations()}


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ("[{devices: all, device-filter: ['0x1FB010DE'], mig-enabled: false}]", "PCI id 0x1FB010DE. Take"),
        ("[{devices: [GPU-x], mig-enabled: false}]", "names GPU-x.*index.*nvidia-smi -L"),
        ("[{devices: [64], mig-enabled: false}]", r"a\[0\] cannot be imported: gpus.indexes.0 is 64"),
        ("[{devices: all, mig-enabled: true, mig-devices: {1g.10: 1}}]", "layout.0.profile is '1g.10'"),
        (
            "[{devices: [0], mig-enabled: false}, {devices: all, mig-enabled: false}]",
            r"a\[1\].*f: a\[0\] may",
        ),
        (
            "[{devices: all, device-filter: '0x233010DE', mig-enabled: false}, "
            "{devices: all, device-filter: '0x233110DE', mig-enabled: false}]",
            "tells boards apart by their model",
        ),
        ("[]", "no list with at least one entry"),
    ],
)
def test_what_a_partition_cannot_say_is_refused(entries: str, says: str) -> None:
    with pytest.raises(BadLayout, match=says):
        of_entries(entries)


def test_a_configuration_of_which_no_name_can_be_made_is_refused() -> None:
    with pytest.raises(BadLayout, match="Rename the configuration"):
        as_partitions({"+?": whole_file()["all-disabled"]}, source="f", labels={})


def test_two_configurations_with_the_same_name_as_an_object_are_refused() -> None:
    configs = parse_mig_parted(f"mig-configs: {{A_b: {OFF}, a-b: {OFF}}}", source="f", every=True)
    with pytest.raises(BadLayout, match="the name a-b already"):
        as_partitions(configs, source="f", labels={}, by_label=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("layouts: []", "f is no file of mig-parted: it has no mapping `mig-configs`"),
        ("kind: ConfigMap\ndata: {a: 'b: ['}", "f is no YAML"),
        ("kind: ConfigMap\ndata: [1]", "f is no file of mig-parted"),
        ("version: v2\nmig-configs: {a: []}", "version is 'v2', and only v1 is known"),
    ],
)
def test_a_file_of_another_kind_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadLayout, match=says):
        parse_mig_parted(text, source="f", every=True)
