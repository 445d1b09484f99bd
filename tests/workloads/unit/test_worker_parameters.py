"""Parameters: what is refused, and that the refusal says what to do."""

from dataclasses import dataclass
from typing import Literal

import pytest
from tessera_workloads.errors import ExitCode, InvalidParameter, UnknownWorkload
from tessera_workloads.noiser.parameters import NoiserParameters
from tessera_workloads.parameters import Parameters, parameter
from tessera_workloads.registry import BUILT_IN, find_parameters, find_workload


@dataclass(frozen=True)
class Example(Parameters):
    count: int = parameter(3, minimum=1, maximum=10, help="a count")
    rate: float = parameter(0.5, minimum=0, help="a rate")
    kind: Literal["plain", "fancy"] = parameter("plain", help="a kind")
    verbose: bool = parameter(False, help="a switch")
    label: str = parameter("none", help="a text")


def test_texts_become_values_of_the_declared_types() -> None:
    given = {"count": "7", "rate": "1e-3", "kind": "fancy", "verbose": "true", "label": "a=b"}
    assert Example.parse(given) == Example(count=7, rate=1e-3, kind="fancy", verbose=True, label="a=b")


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("cuont", "3", 'unknown parameter "cuont": did you mean "count"?'),
        ("zzz", "3", "known: count, rate, kind, verbose, label"),
        ("count", "0", "count=0 is out of range: it must be an integer from 1 to 10"),
        ("count", "2.5", "count='2.5' is not an integer from 1 to 10"),
        ("rate", "-1", "rate=-1.0 is out of range: it must be a number of at least 0"),
        ("rate", "nan", "rate=nan is out of range"),
        ("rate", "inf", "rate=inf is out of range"),
        ("kind", "other", "kind=other is out of range: it must be one of plain, fancy"),
        ("verbose", "maybe", "verbose='maybe' is not true or false"),
    ],
)
def test_a_bad_value_is_refused_with_the_remedy(key: str, text: str, says: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        Example.parse({key: text})
    assert says in str(refused.value)
    assert refused.value.exit_code == ExitCode.INVALID


def test_a_size_changes_what_it_names_and_an_assignment_wins_over_it() -> None:
    assert NoiserParameters.parse({}, size="slice").steps == 4000
    assert NoiserParameters.parse({"steps": "12"}, size="full").steps == 12
    with pytest.raises(InvalidParameter, match="unknown size 'huge'"):
        NoiserParameters.parse({}, size="huge")


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_size_of_every_workload_is_within_its_own_ranges(name: str) -> None:
    declared = find_parameters(name)
    assert set(declared.sizes) == {"ci", "slice", "full"}
    for size in declared.sizes:
        declared.parse({}, size=size)


def test_the_json_schema_admits_no_other_keys_and_carries_the_ranges() -> None:
    schema = Example.json_schema()
    assert schema["additionalProperties"] is False
    count = {"type": "integer", "default": 3, "description": "a count", "minimum": 1, "maximum": 10}
    assert schema["properties"]["count"] == count
    assert schema["properties"]["kind"]["enum"] == ["plain", "fancy"]


def test_an_unknown_workload_names_the_nearest_one() -> None:
    with pytest.raises(UnknownWorkload, match=r'unknown workload "noizer": did you mean "noiser"\?'):
        find_workload("noizer")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_package.here:Thing", "cannot be loaded: No module named 'no_such_package'"),
        ("tessera_workloads.protocol:Thing", "has no attribute 'Thing'"),
        ("tessera_workloads.protocol:Check", "is not a workload"),
    ],
)
def test_a_users_workload_that_cannot_be_loaded_says_why(name: str, says: str) -> None:
    with pytest.raises(UnknownWorkload, match=says):
        find_workload(name)
