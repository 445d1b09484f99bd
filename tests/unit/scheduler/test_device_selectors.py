"""CEL selectors over devices, as resource.k8s.io/v1 defines them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from tessera.scheduler.quantity import parse_quantity
from tessera.scheduler.selectors import DeviceView, InvalidSelector, Selector, SelectorCache

OURS = "gpu.tessera.dev"


def view(**attributes: str | int | bool) -> DeviceView:
    return DeviceView(
        driver=OURS,
        attributes={(OURS, "profile"): "2g.20gb", (OURS, "start"): 4, ("example.com", "rack"): "r7"}
        | {(OURS, name): value for name, value in attributes.items()},
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
