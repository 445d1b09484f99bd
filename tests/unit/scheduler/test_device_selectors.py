"""CEL selectors over devices, as resource.k8s.io/v1 defines them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from tessera.scheduler.quantity import parse_quantity
from tessera.scheduler.selectors import DeviceView, InvalidSelector, Selector, SelectorCache, Version

OURS = "gpu.tessera.dev"


def view(**attributes: str | int | bool) -> DeviceView:
    known: dict[tuple[str, str], str | int | bool | Version] = {
        (OURS, "profile"): "2g.20gb",
        (OURS, "start"): 4,
        ("example.com", "rack"): "r7",
    }
    return DeviceView(
        driver=OURS,
        attributes=known | {(OURS, name): value for name, value in attributes.items()},
        capacity={(OURS, "memory"): parse_quantity("20090Mi"), (OURS, "multiprocessors"): Fraction(32)},
    )


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('device.driver == "gpu.tessera.dev"', True),
        ('device.attributes["gpu.tessera.dev"].profile == "2g.20gb"', True),
        ("device.attributes['gpu.tessera.dev']['profile'] == '1g.10gb'", False),
        ('device.attributes["gpu.tessera.dev"].profile in ["2g.20gb", "3g.40gb"]', True),
        ('device.attributes["gpu.tessera.dev"].start % 4 == 0', True),
        ('device.attributes["gpu.tessera.dev"].healthy', True),
        ('device.attributes["example.com"].rack == "r7"', True),
        ('"rack" in device.attributes["example.com"]', True),
        ('"rack" in device.attributes["elsewhere.org"]', False),
        ('"elsewhere.org" in device.attributes', False),
        ('has(device.attributes["gpu.tessera.dev"].colour)', False),
        ('device.capacity["gpu.tessera.dev"].memory.compareTo(quantity("20090Mi")) == 0', True),
        ('device.capacity["gpu.tessera.dev"].memory.isGreaterThan(quantity("19Gi"))', True),
        ('device.capacity["gpu.tessera.dev"].memory.isLessThan(quantity("20G"))', False),
        ('device.capacity["gpu.tessera.dev"].multiprocessors.asInteger() >= 32', True),
        ('quantity("1Gi").add(quantity("1Gi")).compareTo(quantity("2Gi")) == 0', True),
        ('isQuantity("20Gi") && !isQuantity("20 apples")', True),
        ('device.attributes["gpu.tessera.dev"].profile.startsWith("2g")', True),
        ('device.attributes["gpu.tessera.dev"].profile.matches("^[1-3]g[.]")', True),
        ('device.attributes["gpu.tessera.dev"].profile.split(".")[0] == "2g"', True),
        ('device.attributes["gpu.tessera.dev"].profile.upperAscii().substring(0, 2) == "2G"', True),
        ('device.attributes["gpu.tessera.dev"].profile.indexOf("g") == 1', True),
        ('["1g.10gb", "2g.20gb"].exists(p, p == device.attributes["gpu.tessera.dev"].profile)', True),
        ('device.attributes["gpu.tessera.dev"]["pro" + "file"] == "2g.20gb"', True),
    ],
)
def test_expressions_of_the_api_are_understood(expression: str, expected: bool) -> None:
    assert Selector(expression).matches(view(healthy=True)) is expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('device.attributes["gpu.tessera.dev"].?profile.orValue("none") == "2g.20gb"', True),
        ('device.attributes["gpu.tessera.dev"].?colour.orValue("none") == "none"', True),
        ('device.attributes["gpu.tessera.dev"][?"colour"].hasValue()', False),
        ('device.attributes[?"elsewhere.org"].?rack.hasValue()', False),
        ('device.attributes[?"example.com"].rack.orValue("r1") == "r7"', True),
        ('device.attributes["gpu.tessera.dev"].?profile == optional.of("2g.20gb")', True),
        ('device.attributes["example.com"].?rack.or(optional.of("x")).value() == "r7"', True),
        ("optional.none().hasValue()", False),
        ('cel.bind(a, device.attributes["gpu.tessera.dev"], a.profile == "2g.20gb" && a.start == 4)', True),
        ("cel.bind(a, 2, cel.bind(b, a + 1, b * a == 6))", True),
        ('["optional.of(", ".?"].exists(text, text == ".?")', True),
        ('semver("1.2.3").isLessThan(semver("1.10.0"))', True),
        (
            'semver("1.0.0-rc.2").isLessThan(semver("1.0.0"))'
            ' && semver("1.0.0-rc.2").isGreaterThan(semver("1.0.0-rc.1"))',
            True,
        ),
        ('device.attributes["example.com"].driver.isGreaterThan(semver("580.0.0"))', True),
        ('device.attributes["example.com"].driver.major() == 580', True),
        ('isSemver("580.65") || isSemver("v1.0.0")', False),
    ],
)
def test_what_kubernetes_adds_to_the_language_is_understood(expression: str, expected: bool) -> None:
    seen = view()
    attributes = {**seen.attributes, ("example.com", "driver"): Version("580.65.6")}
    assert Selector(expression).matches(replace(seen, attributes=attributes)) is expected


@pytest.mark.parametrize(
    ("expression", "kinds"),
    [
        ('device.attributes["gpu.tessera.dev"].profile == "2g.20gb"', 1),
        ('device.attributes["gpu.tessera.dev"].?profile.orValue("") == "2g.20gb"', 1),
        ('device.attributes[?"gpu.tessera.dev"][?"profile"].hasValue()', 1),
        ('device.attributes["gpu.tessera.dev"].?gpuUUID.orValue("") == "GPU-3"', 40),
        ('device.attributes["gpu.tessera.dev"].gpuUUID == "GPU-3"', 2),
        ('device.attributes["gpu.tessera.dev"].gpuUUID in ["GPU-3", "GPU-4"] && true', 3),
        ('!(device.attributes["gpu.tessera.dev"].gpuUUID != "GPU-3")', 2),
        ('device.attributes["gpu.tessera.dev"].gpuIndex < 4', 8),
        ('device.attributes["gpu.tessera.dev"].gpuUUID.endsWith("3")', 40),
        ('device.attributes["gpu.tessera.dev"].gpuUUID == "GPU-" + "3"', 40),
        ('"x" + device.attributes["gpu.tessera.dev"].gpuUUID == "xGPU-3"', 40),
        ('device.attributes["gpu.tessera.dev"]["gpu" + "UUID"] == "GPU-3"', 40),
    ],
)
def test_gpus_are_told_apart_only_as_far_as_the_expression_can(expression: str, kinds: int) -> None:
    selector = Selector(expression)
    varying = frozenset({"gpuUUID", "gpuIndex"})
    views = [view(gpuUUID=f"GPU-{n}", gpuIndex=n % 8) for n in range(40)]
    groups: dict[object, set[bool]] = {}
    for one in views:
        groups.setdefault(selector.told_apart_by(one, varying), set()).add(selector.matches(one))
    assert len(groups) == kinds
    assert all(len(verdicts) == 1 for verdicts in groups.values())


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ('device.attributes["gpu.tessera.dev"].profile ==', "does not compile"),
        ("", "does not compile"),
        ("x" * 10_241, "longer than 10240 bytes"),
        ('device.attributes["gpu.tessera.dev"].colour == "red"', "no such member in mapping: 'colour'"),
        ('device.attributes["elsewhere.org"].rack == "r7"', "no such member in mapping: 'rack'"),
        ('device.attributes["gpu.tessera.dev"].profile', "gives a StringType, not a bool"),
        ('device.attributes["gpu.tessera.dev"].start > "3"', "failed on a device"),
        ("claim.name == 'x'", "undeclared reference to 'claim'"),
        ('quantity("many").isInteger()', "failed on a device"),
        ('quantity("1e999999999").isInteger()', "failed on a device"),
        (f'quantity("{"9" * 5000}").isInteger()', "failed on a device"),
        ("launch(device)", "undeclared reference to 'launch'"),
    ],
)
def test_a_bad_expression_is_named_with_the_reason(expression: str, why: str) -> None:
    with pytest.raises(InvalidSelector) as error:
        Selector(expression).matches(view())
    assert why in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_devices_that_look_alike_to_the_expression_are_evaluated_once() -> None:
    selector = Selector('device.attributes["gpu.tessera.dev"].profile == "2g.20gb"')
    for number in range(50):
        assert selector.matches(view(gpuUUID=f"GPU-{number}"))
    assert len(selector._verdicts) == 1


@pytest.mark.parametrize(
    "expression",
    [
        'device.attributes["gpu.tessera.dev"].gpuUUID == "GPU-3"',
        'device.attributes["gpu.tessera.dev"]["gpu" + "UUID"] == "GPU-3"',
        'device.attributes["gpu.tessera.dev"].exists(name, name == "gpuUUID" && '
        'device.attributes["gpu.tessera.dev"][name] == "GPU-3")',
        '[device].exists(d, d.attributes["gpu.tessera.dev"].gpuUUID == "GPU-3")',
    ],
)
def test_an_expression_that_can_see_the_uuid_tells_gpus_apart(expression: str) -> None:
    selector = Selector(expression)
    assert [selector.matches(view(gpuUUID=f"GPU-{n}")) for n in range(5)] == [
        False,
        False,
        False,
        True,
        False,
    ]


def test_true_and_one_are_different_values() -> None:
    selector = Selector('device.attributes["gpu.tessera.dev"].flag == true')
    assert selector.matches(view(flag=True))
    with pytest.raises(InvalidSelector):
        selector.matches(view(flag=1))


def test_the_cache_remembers_what_does_not_compile() -> None:
    cache = SelectorCache(limit=2)
    with pytest.raises(InvalidSelector) as first:
        cache.get("==")
    with pytest.raises(InvalidSelector) as second:
        cache.get("==")
    assert first.value is second.value
    assert cache.get("true") is cache.get("true")
    cache.get("false")
    assert cache.get("true").matches(view())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("250m", Fraction(1, 4)),
        ("1.5Gi", Fraction(3 * 2**29)),
        ("1e3", 1000),
        ("2E", 2 * 10**18),
        (".5", Fraction(1, 2)),
    ],
)
def test_quantities_are_exact(text: str, value: Fraction) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1gi", "1e", "ten"])
def test_what_is_not_a_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)
