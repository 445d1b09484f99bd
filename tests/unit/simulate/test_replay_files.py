"""Events files: what is read, and what is refused with its line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tessera.simulate.cluster import parse_cluster
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.replay import read_events

CLUSTER = parse_cluster(["H100-80GB"], gpus=2)
HEADER = "time,id,op,profile,movable\n"


def events_file(folder: Path, text: str) -> Path:
    path = folder / "events.csv"
    path.write_text(text)
    return path


def test_events_are_read_in_their_order(tmp_path: Path) -> None:
    text = HEADER + "0,a,arrive,7g.80gb,true\n1.5,b,arrive,1g.10gb,\n1.5,a,depart,,\n3,c,arrive,1g.10gb,no\n"
    workload = read_events(events_file(tmp_path, text), CLUSTER)
    assert workload.profiles == ("1g.10gb", "7g.80gb")
    assert workload.ids == ["a", "b", "c"]
    assert workload.events == [0, 1, ~0, 2]
    assert workload.wanted == [1, 0, 0]
    assert workload.movable == [True, False, False]
    assert workload.arrivals == [0, 1.5, 3]
    assert workload.departures == [1.5, math.inf, math.inf]
    assert workload.counted_from == 0


def test_the_column_movable_may_be_left_out(tmp_path: Path) -> None:
    workload = read_events(events_file(tmp_path, "time,id,op,profile\n0,a,arrive,2g.20gb\n"), CLUSTER)
    assert workload.movable == [False]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        (HEADER, "has no arrival"),
        ("time,id,op\n0,a,arrive\n", "column profile is missing"),
        (HEADER + "0,a,arrive,1g.10gb,\n1,b,depart,,\n", "line 3: id 'b' departs without having arrived"),
        (HEADER + "5,a,arrive,1g.10gb,\n4,b,arrive,1g.10gb,\n", "line 3: time 4 lies before 5"),
        (HEADER + "0,a,arrive,1g.10gb,\n1,a,arrive,1g.10gb,\n", "line 3: id 'a' has arrived before"),
        (HEADER + "0,a,arrive,1g.10gb,\n1,a,depart,,\n2,a,depart,,\n", "line 4: id 'a' has departed before"),
        (HEADER + "0,a,arrive,1g.5gb,\n", "line 2: profile '1g.5gb' does not exist on H100-80GB"),
        (HEADER + "0,a,arrive,,\n", "line 2: profile '' does not exist"),
        (HEADER + "soon,a,arrive,1g.10gb,\n", "line 2: time 'soon' is no number"),
        (HEADER + "nan,a,arrive,1g.10gb,\n", "time 'nan' is no number"),
        (HEADER + "0,a,start,1g.10gb,\n", "line 2: op 'start' is unknown"),
        (HEADER + "0,,arrive,1g.10gb,\n", "line 2: the id is empty"),
        (HEADER + "0,a,arrive,1g.10gb,maybe\n", "line 2: movable 'maybe' is neither"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(BadSimulationInput, match=says):
        read_events(events_file(tmp_path, text), CLUSTER)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadSimulationInput, match="cannot be read"):
        read_events(path, CLUSTER)
