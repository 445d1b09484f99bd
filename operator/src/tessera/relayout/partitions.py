"""A file of mig-parted as MIGPartitions, so that a cluster can switch.

Each entry of a configuration becomes one partition: its devices become `gpus.indexes`, its PCI device ids
the models that have them, its instances a static layout, `mig-enabled: false` the MIG mode `Disabled`. MIG
mode on without instances is what a dynamic partition begins with. What a MIGPartition cannot say is refused;
where it says something else than the entry, a note tells it. Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tessera.api.mig_partition import MIG_PARTITION, MIGPartitionSpec
from tessera.api.names import API_VERSION, MIG_MANAGER_CONFIG_LABEL
from tessera.gpu.profiles import boards
from tessera.relayout.errors import BadLayout
from tessera.relayout.wanted import Rule

_NVIDIA = 0x10DE


@dataclass(frozen=True, slots=True)
class Imported:
    """The manifests, and what their reader should know of them."""

    manifests: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of the file, where it stands, and the models that its PCI ids mean (none: all)."""

    where: str
    rule: Rule
    models: tuple[str, ...]

    def overlaps(self, other: _Entry) -> bool:
        """Whether a GPU may fall under both."""
        return _meet(self.rule.gpus, other.rule.gpus) and _meet(self.models or None, other.models or None)


def as_partitions(
    configurations: Mapping[str, Sequence[Rule]],
    *,
    source: str,
    labels: Mapping[str, str],
    by_label: bool = False,
) -> Imported:
    """The partitions, for nodes with these labels and, `by_label`, with the one that asks mig-manager for the
    configuration.

    Raises `BadLayout`, naming the file and the entry.
    """
    manifests: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for configuration, rules in configurations.items():
        entries = _entries(rules, f"{source}: {configuration}")
        selector = {**labels, MIG_MANAGER_CONFIG_LABEL: configuration} if by_label else dict(labels)
        for at, entry in enumerate(entries):
            name = _name(configuration if len(entries) == 1 else f"{configuration}-{at}")
            if not name:
                raise BadLayout(
                    f"{entry.where} cannot be imported",
                    "its name has no letter or digit, and a partition is named after it",
                    "Rename the configuration",
                )
            if name in manifests:
                raise BadLayout(
                    f"{entry.where} cannot be imported",
                    f"another partition has the name {name} already",
                    "Rename the configuration, or import the two one by one: --config NAME",
                )
            manifests[name] = _manifest(name, _spec(entry, selector))
            notes += _notes(entry, name)
    return Imported(manifests=tuple(manifests.values()), notes=tuple(notes))


def _entries(rules: Sequence[Rule], where: str) -> tuple[_Entry, ...]:
    entries = tuple(
        _Entry(where=f"{where}[{at}]", rule=rule, models=_models(rule, f"{where}[{at}]"))
        for at, rule in enumerate(rules)
    )
    for at, entry in enumerate(entries):
        for former in entries[:at]:
            if entry.overlaps(former):
                raise BadLayout(
                    f"{entry.where} cannot be imported",
                    f"{former.where} may hold for the same GPUs, and a GPU belongs to one MIGPartition "
                    "(which tells boards apart by their model)",
                    "Give each entry devices or a device-filter of its own",
                )
    return entries


def _meet(some: tuple[str, ...] | None, others: tuple[str, ...] | None) -> bool:
    return some is None or others is None or not set(some).isdisjoint(others)


def _models(rule: Rule, where: str) -> tuple[str, ...]:
    models = tuple(name for name, board in boards().items() if set(rule.pci_ids) & set(board.pci_device_ids))
    if rule.pci_ids and not models:
        raise BadLayout(
            f"{where}.device-filter cannot be imported",
            f"no board of the profile table has the PCI id {_ids(rule.pci_ids)}",
            "Take the entry out; select these GPUs by the model that `kubectl get gpunodes -o yaml` shows",
        )
    return models


def _ids(devices: Sequence[int]) -> str:
    return ", ".join(f"0x{device << 16 | _NVIDIA:08X}" for device in devices)


def _name(text: str) -> str:
    """A configuration's name as that of an object: `+` and the like become `-`."""
    return re.sub(r"[^a-z0-9.-]", "-", text.lower()).strip("-.")


def _spec(entry: _Entry, labels: Mapping[str, str]) -> MIGPartitionSpec:
    spec: dict[str, Any] = {}
    if labels:
        spec["nodeSelector"] = {"matchLabels": dict(labels)}
    if gpus := _gpus(entry):
        spec["gpus"] = gpus
    if entry.rule.wishes:
        counts = Counter(wish.profile for wish in entry.rule.wishes)
        layout = [{"profile": profile, "count": count} for profile, count in counts.items()]
        spec |= {"mode": "static", "static": {"layout": layout}}
    else:
        spec["mode"] = "dynamic"
    spec["migMode"] = "Disabled" if entry.rule.mig is False else "Enabled"
    try:
        return MIGPartitionSpec.model_validate(spec)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise BadLayout(
            f"{entry.where} cannot be imported", f"{field} is {first['input']!r}: {first['msg']}"
        ) from error


def _gpus(entry: _Entry) -> dict[str, Any]:
    gpus: dict[str, Any] = {}
    if entry.models:
        gpus["models"] = list(entry.models)
    if entry.rule.gpus is not None:
        uuids = [name for name in entry.rule.gpus if not name.isdecimal()]
        if uuids:
            raise BadLayout(
                f"{entry.where}.devices names {uuids[0]}",
                "a MIGPartition selects GPUs by their index, on every node that it selects",
                "Write the index (nvidia-smi -L shows it)",
            )
        gpus["indexes"] = sorted({int(name) for name in entry.rule.gpus})
    return gpus


def _manifest(name: str, spec: MIGPartitionSpec) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": MIG_PARTITION.kind,
        "metadata": {"name": name},
        "spec": spec.model_dump(by_alias=True, exclude_unset=True, mode="json"),
    }


def _notes(entry: _Entry, partition: str) -> Iterator[str]:
    """Where the partition says something else than the entry."""
    known = [device for model in entry.models for device in boards()[model].pci_device_ids]
    unknown = [device for device in entry.rule.pci_ids if device not in known]
    if unknown:
        yield (
            f"{entry.where}: boards with the PCI id {_ids(unknown)} are not in the profile table, so "
            f"{partition} leaves them out; add to its spec.gpus.models the model that "
            "`kubectl get gpunodes -o yaml` shows"
        )
    wider = [device for device in known if device not in entry.rule.pci_ids]
    if wider:
        yield (
            f"{entry.where}: a MIGPartition tells boards apart by their model, and "
            f"{', '.join(entry.models)} means those with the PCI id {_ids(wider)} too"
        )
    if entry.rule.mig and not entry.rule.wishes:
        yield f"{entry.where}: MIG mode on without instances; slices will be cut when a pod needs them"
