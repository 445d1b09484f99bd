"""What a person asks for: a layout in a few words, or a file with layouts for several GPUs.

In words: `3g.71gb@4,2g.35gb,1g.18gb=2`: profiles with commas between, `@START` where the start matters, `=N`
for several, `none` for no instance, `off` for MIG mode off. A file is YAML, ours (`layouts:`) or one written
for NVIDIA's mig-parted (`mig-configs:`), so that it can be used as it is. Pure: the text comes from outside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tessera.gpu.profiles import boards
from tessera.relayout.errors import BadLayout
from tessera.relayout.plan import Wish

_WISH = re.compile(r"(?P<profile>[^\s@=]+)(?:@(?P<start>\d+)|=(?P<count>\d+))?")
_MOST_INSTANCES = 16
_OUR_KEYS = {"gpus", "models", "mig", "instances"}
_THEIR_KEYS = {"devices", "device-filter", "mig-enabled", "mig-devices"}


@dataclass(frozen=True, slots=True)
class Rule:
    """A layout and the GPUs that shall have it.

    `gpus` are indices or UUIDs, None for all; of these, `models` and `pci_ids` keep only some when given.
    With `mig` False the GPU shall have MIG mode off and no instance; with None the mode stays as it is,
    unless there are instances, which need it.
    """

    wishes: tuple[Wish, ...]
    gpus: tuple[str, ...] | None = None
    models: tuple[str, ...] = ()
    pci_ids: tuple[int, ...] = ()
    mig: bool | None = None

    def holds_for(self, *, index: int, uuid: str, model: str) -> bool:
        """Whether the GPU shall have this layout."""
        named = self.gpus is None or str(index) in self.gpus or uuid in self.gpus
        return named and self._fits(model)

    def mig_then(self, *, now: bool) -> bool:
        """The MIG mode that the GPU shall have."""
        return (now or bool(self.wishes)) if self.mig is None else self.mig

    def _fits(self, model: str) -> bool:
        if self.models and model not in self.models:
            return False
        board = boards().get(model)
        return not self.pci_ids or (
            board is not None and not set(self.pci_ids).isdisjoint(board.pci_device_ids)
        )


def parse_words(text: str, *, gpus: tuple[str, ...] | None) -> Rule:
    """A layout in words, for these GPUs. Raises `BadLayout`."""
    if text.strip() in ("none", "off"):
        return Rule(wishes=(), gpus=gpus, mig=False if text.strip() == "off" else None)
    wishes: list[Wish] = []
    for part in text.split(","):
        wishes += _wishes(part.strip(), whole=text)
    return Rule(wishes=_limited(wishes, text), gpus=gpus)


def _wishes(part: str, *, whole: str) -> list[Wish]:
    found = _WISH.fullmatch(part)
    if found is None:
        raise BadLayout(
            f"layout {whole!r} cannot be read",
            f"{part!r} is no profile" if part else "something is missing beside a comma",
            "Write for example 3g.40gb@4,2g.20gb,1g.10gb=2, or none, or off",
        )
    start = None if found["start"] is None else int(found["start"])
    return [Wish(found["profile"], start)] * int(found["count"] or 1)


def _limited(wishes: Sequence[Wish], where: str) -> tuple[Wish, ...]:
    if len(wishes) > _MOST_INSTANCES:
        raise BadLayout(f"layout {where!r} has {len(wishes)} instances", "no GPU has that many")
    return tuple(wishes)


def parse_file(text: str, *, source: str, config: str | None = None) -> tuple[Rule, ...]:
    """The rules of a file. `config` chooses one of the configurations of mig-parted's format.

    Raises `BadLayout`, naming the file and the entry.
    """
    document = _document(text, source)
    if _is_mig_parted(document):
        (rules,) = _configurations(document, source=source, config=config, every=False).values()
        return rules
    if not isinstance(document, dict) or not isinstance(document.get("layouts"), list):
        raise BadLayout(
            f"{source} cannot be read",
            "it has neither a list `layouts` nor, as files of mig-parted have, `mig-configs`",
            "See docs/gpu.md",
        )
    if config is not None:
        raise BadLayout(
            f"{source} has no configurations", "only files of mig-parted do", "Leave --config out"
        )
    return tuple(_rule(entry, f"{source}: layouts[{at}]") for at, entry in enumerate(document["layouts"]))


def parse_mig_parted(
    text: str, *, source: str, config: str | None = None, every: bool = False
) -> dict[str, tuple[Rule, ...]]:
    """The configuration of that name of a file of mig-parted, by its name; with `every`, all where none is
    named, else the only one.

    Raises `BadLayout`, naming the file and the entry.
    """
    document = _document(text, source)
    if not _is_mig_parted(document):
        raise BadLayout(f"{source} is no file of mig-parted", "it has no mapping `mig-configs`")
    return _configurations(document, source=source, config=config, every=every)


def _configurations(
    document: Any, *, source: str, config: str | None, every: bool
) -> dict[str, tuple[Rule, ...]]:
    version = document.get("version", "v1")
    if version != "v1":
        raise BadLayout(f"{source} cannot be read", f"its version is {version!r}, and only v1 is known")
    configs = {str(name): entries for name, entries in document["mig-configs"].items()}
    names = ", ".join(configs)
    if config is not None:
        if config not in configs:
            raise BadLayout(f"{source} has no configuration {config!r}", "", f"It has: {names}")
        configs = {config: configs[config]}
    elif not every and len(configs) != 1:
        raise BadLayout(
            f"{source} has {len(configs)} configurations", f"they are {names}", "Choose one: --config NAME"
        )
    return {name: _their_rules(entries, f"{source}: {name}") for name, entries in configs.items()}


def _document(text: str, source: str) -> Any:
    """The YAML of the file. The GPU operator keeps mig-parted's in a ConfigMap: then that of its entry."""
    try:
        document = yaml.safe_load(text)
        if isinstance(document, dict) and document.get("kind") == "ConfigMap":
            entries = document.get("data")
            texts = entries.values() if isinstance(entries, dict) else ()
            return next(filter(_is_mig_parted, map(yaml.safe_load, map(str, texts))), document)
    except yaml.YAMLError as error:
        raise BadLayout(f"{source} is no YAML", " ".join(str(error).split())) from error
    return document


def _is_mig_parted(document: Any) -> bool:
    return isinstance(document, dict) and isinstance(document.get("mig-configs"), dict)


def _their_rules(entries: Any, where: str) -> tuple[Rule, ...]:
    if not isinstance(entries, list) or not entries:
        raise BadLayout(f"{where} cannot be read", "it is no list with at least one entry")
    return tuple(_their_rule(entry, f"{where}[{at}]") for at, entry in enumerate(entries))


def _rule(entry: Any, where: str) -> Rule:
    _check_keys(entry, _OUR_KEYS, where)
    mig = _flag(entry["mig"], f"{where}.mig") if "mig" in entry else None
    models = _texts(entry.get("models", []), f"{where}.models")
    for name in models:
        if name not in boards():
            raise BadLayout(f"{where}: unknown model {name!r}", "", f"Known: {', '.join(boards())}")
    return _checked(
        Rule(
            wishes=_instances(entry.get("instances", []), f"{where}.instances"),
            gpus=_gpus(entry.get("gpus", "all"), f"{where}.gpus"),
            models=models,
            mig=mig,
        ),
        where,
    )


def _their_rule(entry: Any, where: str) -> Rule:
    _check_keys(entry, _THEIR_KEYS, where)
    filters = entry.get("device-filter", [])
    texts = _texts([filters] if isinstance(filters, str) else filters, f"{where}.device-filter")
    try:
        pci_ids = tuple(int(text, 16) >> 16 for text in texts)  # 0x233010DE: device, then vendor
    except ValueError:
        raise BadLayout(f"{where}.device-filter cannot be read", "write ids as 0x233010DE") from None
    return _checked(
        Rule(
            wishes=_instances(entry.get("mig-devices") or {}, f"{where}.mig-devices"),
            gpus=_gpus(entry.get("devices", "all"), f"{where}.devices"),
            pci_ids=pci_ids,
            mig=_flag(entry.get("mig-enabled"), f"{where}.mig-enabled"),
        ),
        where,
    )


def _checked(rule: Rule, where: str) -> Rule:
    if rule.wishes and rule.mig is False:
        raise BadLayout(f"{where} contradicts itself", "instances need MIG mode, and it shall be off")
    return rule


def _check_keys(entry: Any, known: set[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise BadLayout(
            f"{where} cannot be read", "it is no mapping", f"Its keys are {', '.join(sorted(known))}"
        )
    unknown = sorted(map(str, set(entry) - known))
    if unknown:
        raise BadLayout(f"{where} has the unknown key {unknown[0]}", "", f"Known: {', '.join(sorted(known))}")


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise BadLayout(f"{where} is {value!r}", "it has to be true or false")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadLayout(f"{where} is {value!r}", "it has to be a list of texts")
    return tuple(value)


def _gpus(value: Any, where: str) -> tuple[str, ...] | None:
    if value == "all":
        return None
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, bool) or not isinstance(item, int | str) for item in items):
        raise BadLayout(f"{where} is {value!r}", "it has to be all, or a list of indices and UUIDs")
    return tuple(str(item) for item in items)


def _instances(value: Any, where: str) -> tuple[Wish, ...]:
    """A list of words, or profiles with their numbers."""
    wishes: list[Wish] = []
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        for item in value:
            wishes += _wishes(item.strip(), whole=item)
    elif isinstance(value, dict) and all(
        isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in value.values()
    ):
        for profile, count in value.items():
            wishes += [Wish(str(profile))] * count
    else:
        raise BadLayout(f"{where} is {value!r}", "it has to be a list of profiles, or profile: number")
    divided = next((wish.profile for wish in wishes if re.match(r"\d+c\.", wish.profile)), None)
    if divided is not None:
        raise BadLayout(
            f"{where}: {divided} cannot be made",
            "every instance gets one compute instance as wide as itself",
            "Divide it afterwards with nvidia-smi mig -cci",
        )
    return _limited(wishes, where)


@dataclass(frozen=True, slots=True)
class Named:
    """A GPU by what a rule may say about it."""

    index: int
    uuid: str
    model: str


def rules_by_gpu(rules: Sequence[Rule], gpus: Sequence[Named]) -> dict[int, Rule]:
    """GPU index -> its rule. Raises `BadLayout` when a GPU is unknown, or has two rules, or none has any."""
    known = {name for gpu in gpus for name in (str(gpu.index), gpu.uuid)}
    here = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus) or "none"
    for name in (name for rule in rules for name in rule.gpus or ()):
        if name not in known:
            raise BadLayout(f"there is no GPU {name}", "", f"GPUs here: {here}")
    found: dict[int, Rule] = {}
    for gpu in gpus:
        own = [rule for rule in rules if rule.holds_for(index=gpu.index, uuid=gpu.uuid, model=gpu.model)]
        if len(own) > 1:
            raise BadLayout(
                f"GPU {gpu.index} has {len(own)} layouts",
                "several entries hold for it",
                "Leave one that does",
            )
        if own:
            found[gpu.index] = own[0]
    if not found:
        raise BadLayout("no layout holds for a GPU of this machine", f"GPUs here: {here}")
    return found
