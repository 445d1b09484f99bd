"""Files of services: both forms are read, and a mistake is told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tessera.packing.errors import BadPackingInput
from tessera.packing.service_file import parse_services
from tessera.packing.services import HeadRoom, Measurement, Question, Service

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "pack"

YAML = """\
gpus:
- H100-80GB
- {model: A30-24GB, limit: 4, cost: 0.5}
utilisation: 0.8
measurements:
- {workload: net, gpu: H100-80GB, profile: 1g.10gb, throughput_per_second: 30, latency_ms: 9}
- workload: net
  gpu: A30
  profile: 2g.12gb
  processes: 2
  batch: 4
  throughput_per_second: 40
  latency_ms: 20
  mode: mps
services:
- name: a
  workload: net
  rate_per_second: 10
  slo_ms: 50
- {name: net, rate_per_second: 1.5, slo_ms: 60}
"""

CSV = """\
service,rate_per_second,slo_ms,gpu,profile,processes,throughput_per_second,latency_ms
a,10,50,H100-80GB,1g.10gb,1,30,9
a,,,H100-80GB,2g.20gb,2,70,12
b,5,20,H100-80GB,1g.10gb,1,0,
"""


def no_file(name: str) -> str:
    raise AssertionError(f"{name} must not be read")


def read(text: str, source: str = "services.yaml") -> Question:
    return parse_services(text, source=source, read=no_file)


def test_yaml_is_read() -> None:
    question = read(YAML)
    assert [(pool.name, pool.limit, pool.cost) for pool in question.pools] == [
        ("H100-80GB", None, 1.0),
        ("A30-24GB", 4, 0.5),
    ]
    assert question.head_room == HeadRoom(utilisation=0.8, latency_share=0.5)
    assert question.services == (Service("a", "net", 10, 50), Service("net", "net", 1.5, 60))
    assert question.measurements == (
        Measurement("net", "H100-80GB", "1g.10gb", 1, 1, 30, 9),
        Measurement("net", "A30-24GB", "2g.12gb", 2, 4, 40, 20, "mps"),
    )
    assert not question.share_slices


def test_csv_is_read() -> None:
    question = read(CSV, "services.csv")
    assert question.services == (Service("a", "a", 10, 50), Service("b", "b", 5, 20))
    assert question.measurements[1] == Measurement("a", "H100-80GB", "2g.20gb", 2, 1, 70, 12)
    assert question.measurements[2].throughput_per_second == 0
    assert question.pools == ()


def test_measurements_may_stand_in_a_table_of_their_own() -> None:
    table = "workload,gpu,profile,throughput_per_second,latency_ms\nnet,A30-24GB,1g.6gb,12,30\n"
    text = "measurements: m.csv\nservices:\n- {name: net, rate_per_second: 1, slo_ms: 60}\n"
    found = parse_services(text, source="s.yaml", read={"m.csv": table}.__getitem__)
    assert found.measurements == (Measurement("net", "A30-24GB", "1g.6gb", 1, 1, 12, 30),)
    with pytest.raises(BadPackingInput, match=r"m\.csv:2: A30-24GB has no profile '1g\.5gb'"):
        bad = {"m.csv": table.replace("1g.6gb", "1g.5gb")}
        parse_services(text, source="s.yaml", read=bad.__getitem__)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  slo_ms: 50", "  slo: 50", "services.yaml:16: 'slo' is not known"),
        ("  slo_ms: 50", "", "services.yaml:16: slo_ms is missing"),
        ("rate_per_second: 1.5", "rate_per_second: 0", "services.yaml:20: rate_per_second is 0"),
        ("rate_per_second: 1.5", "rate_per_second: -3", "services.yaml:20: rate_per_second is -3"),
        ("rate_per_second: 1.5", "rate_per_second: fast", "services.yaml:20: rate_per_second is 'fast'"),
        ("profile: 2g.12gb", "profile: 2g.12g", "services.yaml:7: A30-24GB has no profile '2g.12g'"),
        ("processes: 2", "processes: 1.5", "services.yaml:7: processes is 1.5"),
        ("gpu: A30", "gpu: B30", "services.yaml:7: GPU model 'B30' is not in the profile table"),
        ("model: A30-24GB", "model: A31-24GB", "GPU model 'A31-24GB' is not in the profile table"),
        ("limit: 4", "limit: 0", "services.yaml:3: limit is 0"),
        ("utilisation: 0.8", "utilisation: 8", "the utilisation is 8"),
        ("utilisation: 0.8", "utilization: 0.8", "Did you mean utilisation"),
        ("utilisation: 0.8", "share_slices: maybe", "services.yaml:4: share_slices is 'maybe'"),
        ("services:", "services: 5\nx:", "'x' is not known"),
        ("- name: a", "- name: [a", "this is no YAML"),
    ],
)
def test_mistakes_in_yaml_are_told_with_their_line(old: str, new: str, words: str) -> None:
    assert old in YAML
    with pytest.raises(BadPackingInput) as refused:
        read(YAML.replace(old, new))
    assert words in str(refused.value)


@pytest.mark.parametrize("text", ["", "5", "[]", "services: []", "measurements: []\nservices: {}"])
def test_what_is_no_question_is_refused(text: str) -> None:
    with pytest.raises(BadPackingInput, match=r"services\.yaml:\d"):
        read(text)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("slo_ms", "slo", "services.csv:1: 'slo' is not known"),
        ("gpu,profile,", "gpu,", "services.csv:1: the columns profile are missing"),
        ("a,,,", "a,11,,", "services.csv:3: rate_per_second of a is 11: a row above says 10"),
        (",70,12", ",70", "services.csv:3: the row has not 8 cells"),
        (",70,12", ",70,0", "services.csv:3: latency_ms is '0'"),
        ("b,5,20", "b,,20", "services.csv:4: rate_per_second is missing"),
        ("2g.20gb", "2g.20g", "services.csv:3: H100-80GB has no profile '2g.20g'"),
    ],
)
def test_mistakes_in_csv_are_told_with_their_line(old: str, new: str, words: str) -> None:
    assert old in CSV
    with pytest.raises(BadPackingInput) as refused:
        read(CSV.replace(old, new), "services.csv")
    assert words in str(refused.value)


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_examples_are_read(path: Path) -> None:
    question = parse_services(
        path.read_text(), source=path.name, read=lambda name: (path.parent / name).read_text()
    )
    assert question.services
    assert question.measurements
