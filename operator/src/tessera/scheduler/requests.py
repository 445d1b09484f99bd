"""A ResourceClaim's spec -> what the placement engine is asked for.

Everything that a claim may say and that we do not serve is refused here by name, with the remedy: a request
that is silently half understood would give somebody the wrong slice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tessera.api import names
from tessera.placement.geometry import Geometry
from tessera.placement.gpu_sets import bits_of
from tessera.placement.request import Alternative, Constraint, Offer, Placement, Request
from tessera.placement.state import ClusterState
from tessera.scheduler.classes import NO_OBJECTS, Classes, DeviceClass
from tessera.scheduler.filters import tolerates
from tessera.scheduler.inventory import VARYING, Device, Inventory, PublishedGpu
from tessera.scheduler.objects import Claim
from tessera.scheduler.quantity import parse_quantity
from tessera.scheduler.selectors import InvalidSelector, Selector, SelectorCache

MOST_EVALUATIONS = 20_000
"""An expression that cannot be judged by kinds of GPUs costs about 0.1 ms a device; the limit keeps one claim
from stopping the rounds for longer than some seconds, once.
"""


class InvalidRequest(ValueError):
    """The claim asks for something that cannot be served; the message names the request, the reason and the
    remedy.
    """


@dataclass(frozen=True)
class ClaimRequests:
    """A claim as requests to the engine. `tolerations` are by request name, for the allocation result."""

    requests: tuple[Request, ...]
    constraints: tuple[Constraint, ...]
    tolerations: Mapping[str, tuple[Mapping[str, Any], ...]]


def request_name(claim: Claim, name: str) -> str:
    """The engine's name for one request of one claim: unique among the claims of a pod."""
    return f"{claim.uid}/{name}"


class RequestReader:
    """Reads claims against one inventory. What a request admits is found once per distinct request, however
    many claims ask it; make a new reader when the inventory changes.
    """

    def __init__(self, *, inventory: Inventory, state: ClusterState, selectors: SelectorCache) -> None:
        self._inventory = inventory
        self._state = state
        self._selectors = selectors
        self._offers: dict[tuple[str, ...], tuple[Offer, ...]] = {}

    def read(self, claim: Claim, classes: Classes = NO_OBJECTS) -> ClaimRequests:
        """The requests of a claim of our classes. Raises InvalidRequest."""
        devices = claim.spec.get("devices") or {}
        requests = []
        tolerations: dict[str, tuple[Mapping[str, Any], ...]] = {}
        for request in devices.get("requests") or ():
            alternatives = []
            for name, part in _parts(request):
                alternatives.append(self._alternative(claim, name, part, classes))
                tolerations[name] = tuple(part.get("tolerations") or ())
            requests.append(Request(request_name(claim, request["name"]), tuple(alternatives)))
        constraints = tuple(_constraint(claim, c, self._inventory) for c in devices.get("constraints") or ())
        return ClaimRequests(tuple(requests), constraints, tolerations)

    def _alternative(self, claim: Claim, name: str, part: Mapping[str, Any], classes: Classes) -> Alternative:
        of_class = _class_of(name, part, classes)
        _refuse_unserved(name, part)
        own = tuple(s["cel"]["expression"] for s in part.get("selectors") or () if "cel" in s)
        expressions = (*own, *of_class.expressions)
        key = (*expressions, repr(part.get("tolerations")), repr(part.get("capacity")))
        try:
            offers = self._offers.get(key)
            if offers is None:
                offers = self._offers[key] = self._find_offers(part, expressions)
        except InvalidSelector as error:
            where = "" if error.expression in own else f"DeviceClass {of_class.name}: "
            raise InvalidRequest(f"request {name}: {where}{error}; correct the expression") from error
        return Alternative(
            name=f"{claim.uid}/{name}",
            label=_label(expressions, offers),
            offers=offers,
            count=int(part.get("count", 1)),
        )

    def _find_offers(self, part: Mapping[str, Any], expressions: Sequence[str]) -> tuple[Offer, ...]:
        """Raises InvalidSelector."""
        compiled = self._selectors.all(expressions)
        admits = _admission(part, compiled)
        kinds: dict[Hashable, list[PublishedGpu]] = defaultdict(list)
        for gpu in self._inventory.gpus:
            telling = tuple(s.told_apart_by(gpu.devices[0].view, VARYING) for s in compiled)
            kinds[gpu.kind, telling].append(gpu)
        placements = sum(len(alike[0].devices) for alike in kinds.values())
        if placements > MOST_EVALUATIONS:
            expression = max(compiled, key=lambda s: s.sees_any(VARYING)).expression
            raise InvalidSelector(
                expression,
                f"tells single GPUs apart and would have to be evaluated on {placements} devices, "
                f"{MOST_EVALUATIONS} at most are served: compare {' and '.join(sorted(VARYING))} "
                "with literals by == or in only",
            )
        return _offers(self._state, kinds.values(), admits)


def _parts(request: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The alternatives of a request by the name that the allocation result must use ("request" or
    "request/subrequest").
    """
    if request.get("exactly"):
        return [(request["name"], request["exactly"])]
    return [(f"{request['name']}/{part['name']}", part) for part in request.get("firstAvailable") or ()]


def _class_of(name: str, part: Mapping[str, Any], classes: Classes) -> DeviceClass:
    found = classes.get(str(part.get("deviceClassName")))
    if found is None:
        raise InvalidRequest(
            f"request {name} of class {part.get('deviceClassName')!r} stands beside {names.DEVICE_CLASS}; "
            "put devices of other classes into a ResourceClaim of their own"
        )
    return found


def _refuse_unserved(name: str, part: Mapping[str, Any]) -> None:
    if part.get("allocationMode", "ExactCount") != "ExactCount":
        raise InvalidRequest(
            f"request {name}: allocationMode {part['allocationMode']} is not served; give a count"
        )
    if part.get("adminAccess"):
        raise InvalidRequest(
            f"request {name}: adminAccess is not served; look at the GPUNode objects instead"
        )


def _admission(part: Mapping[str, Any], compiled: Sequence[Selector]) -> Callable[[Device], bool]:
    tolerations = part.get("tolerations") or ()
    wanted = {
        _qualified(name): parse_quantity(str(q))
        for name, q in ((part.get("capacity") or {}).get("requests") or {}).items()
    }

    def admits(device: Device) -> bool:
        return (
            all(
                taint.key == names.DEVICE_TAINT_KEY
                or taint.effect not in ("NoSchedule", "NoExecute")
                or (not names.bars_everybody(taint.key) and tolerates(tolerations, taint))
                for taint in device.taints
            )
            and all(device.view.capacity.get(name, 0) >= amount for name, amount in wanted.items())
            and all(selector.matches(device.view) for selector in compiled)
        )

    return admits


def _offers(
    state: ClusterState, kinds: Iterable[Sequence[PublishedGpu]], admits: Callable[[Device], bool]
) -> tuple[Offer, ...]:
    """Group the GPUs by geometry and by which of its placements are admitted; most requests end with one
    group a model. Each kind is judged by its first GPU.
    """
    groups: dict[tuple[Geometry, tuple[int, ...]], int] = {}
    for alike in kinds:
        admitted = tuple(d.index for d in alike[0].devices if admits(d))
        if admitted:
            key = (alike[0].geometry, admitted)
            found = (state.gpu(published.name) for published in alike)
            groups[key] = groups.get(key, 0) | bits_of(gpu.number for gpu in found if gpu is not None)
    return tuple(Offer(geometry, admitted, bits) for (geometry, admitted), bits in groups.items())


def _label(expressions: Sequence[str], offers: tuple[Offer, ...]) -> str:
    """How messages call the request: the profile when there is one, else the selectors."""
    profiles = {o.geometry.placements[i].profile for o in offers for i in o.placements}
    if len(profiles) == 1:
        return profiles.pop()
    return named_profile(expressions) or " && ".join(expressions) or "any slice"


def named_profile(expressions: Sequence[str]) -> str:
    """The profile that an expression compares with literally, or "": so that a refusal can name a profile
    that no GPU has.
    """
    prefix = f'device.attributes["{names.DRIVER}"].{names.ATTRIBUTE_PROFILE}'
    for expression in expressions:
        left, equals, right = (part.strip() for part in expression.partition("=="))
        if (
            equals
            and left == prefix
            and len(right) > 2
            and right[0] == right[-1] == '"'
            and '"' not in right[1:-1]
        ):
            return right[1:-1]
    return ""


def _constraint(claim: Claim, constraint: Mapping[str, Any], inventory: Inventory) -> Constraint:
    """`matchAttribute` and `distinctAttribute` between the devices of a claim."""
    equal = constraint.get("matchAttribute")
    distinct = constraint.get("distinctAttribute")
    attribute = equal or distinct
    if not attribute:
        raise InvalidRequest(
            "a constraint of an unknown kind is not served; use matchAttribute or distinctAttribute"
        )
    about = {f"{claim.uid}/{name}" for name in constraint.get("requests") or ()}

    def holds(placements: Sequence[Placement]) -> bool:
        values = []
        for placement in placements:
            if not placement.request.startswith(f"{claim.uid}/"):
                continue
            if about and not ({placement.request, placement.alternative} & about):
                continue
            device = inventory.by_name[placement.gpu].devices[placement.index]
            value = device.view.attributes.get(_qualified(attribute))
            if value is None:
                return False
            values.append(value)
        return len(set(values)) <= 1 if equal else len(set(values)) == len(values)

    return holds


def _qualified(name: str) -> tuple[str, str]:
    domain, _, local = name.rpartition("/")
    return (domain or names.DRIVER, local)
