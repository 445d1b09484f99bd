"""The parts of a request to the API server that are made from an object or from options. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tessera.kube.resources import Resource

Object = dict[str, Any]
Propagation = Literal["Foreground", "Background", "Orphan"]


def selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    """Query parameters that select objects."""
    params: dict[str, str] = {}
    if label_selector:
        params["labelSelector"] = label_selector
    if field_selector:
        params["fieldSelector"] = field_selector
    return params


def delete_options(
    uid: str | None, resource_version: str | None, propagation: Propagation | None, grace_seconds: int | None
) -> Object:
    """The body of a deletion. `uid` and `resource_version` are what the object must still have."""
    options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
    preconditions = {"uid": uid, "resourceVersion": resource_version}
    if any(preconditions.values()):
        options["preconditions"] = {key: value for key, value in preconditions.items() if value}
    if propagation is not None:
        options["propagationPolicy"] = propagation
    if grace_seconds is not None:
        options["gracePeriodSeconds"] = grace_seconds
    return options


def typed(resource: Resource, obj: Mapping[str, Any]) -> Object:
    """The object with its type. Callers may leave it out; custom resources are refused without it."""
    return {"apiVersion": resource.api_version, "kind": resource.kind} | dict(obj)


def name_of(obj: Mapping[str, Any]) -> str:
    """The object's name. Raises `ValueError` when it has none."""
    name = (obj.get("metadata") or {}).get("name")
    if not name:
        raise ValueError(f"the {obj.get('kind', 'object')} has no metadata.name")
    return str(name)


def namespace_of(resource: Resource, obj: Mapping[str, Any], namespace: str | None) -> str | None:
    """The namespace as it was given, else the object's. Raises `ValueError` when one is needed and neither
    has it.
    """
    space = namespace or (obj.get("metadata") or {}).get("namespace")
    if resource.namespaced and not space:
        raise ValueError(f"a {resource.kind} needs a namespace: give namespace= or set metadata.namespace")
    return space


def object_path(resource: Resource, name: str, namespace: str | None, subresource: str | None = None) -> str:
    """The path of one object. Raises `ValueError` when it needs a namespace."""
    if resource.namespaced and not namespace:
        raise ValueError(f"{resource.kind} {name} needs a namespace")
    return resource.path(namespace=namespace, name=name, subresource=subresource)
