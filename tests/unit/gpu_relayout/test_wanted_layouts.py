"""Layouts in words, in our files and in mig-parted's, and which GPUs they are for."""

from __future__ import annotations

import pytest
from tessera.relayout.errors import BadLayout
from tessera.relayout.plan import Wish
from tessera.relayout.wanted import Named, Rule, parse_file, parse_words, rules_by_gpu

OURS = """
layouts:
- gpus: [0]
  instances: [3g.71gb@4, 1g.18gb=2]
- gpus: all
  models: [A100-80GB]
  instances: {1g.10gb: 7}
- gpus: [GPU-b]
  mig: false
"""
# The shape of deployments/systemd/config-default.yaml of github.com/NVIDIA/mig-parted.
MIG_PARTED = """
version: v1
mig-configs:
  all-disabled:
  - devices: all
    mig-enabled: false
  all-balanced:
  - device-filter: ["0x20B210DE", "0x233010DE"]
    devices: all
    mig-enabled: true
    mig-devices:
      "1g.10gb": 2
      "3g.40gb": 1
  - device-filter: "0x233510DE"
    devices: [1]
    mig-enabled: true
    mig-devices: {"1g.18gb+me": 1}
"""
H100, H200 = Named(0, "GPU-a", "H100-80GB"), Named(1, "GPU-b", "H200-141GB")


def test_words_have_starts_and_numbers() -> None:
    asked = parse_words("3g.71gb@4, 2g.35gb,1g.18gb+me,1g.18gb=2", gpus=("0",))
    assert asked.gpus == ("0",)
    assert [str(w) for w in asked.wishes] == ["3g.71gb@4", "2g.35gb", "1g.18gb+me", "1g.18gb", "1g.18gb"]


@pytest.mark.parametrize(
    ("words", "now", "then"),
    [
        ("none", False, False),
        ("none", True, True),
        ("off", True, False),
        ("7g.80gb", False, True),
    ],
)
def test_only_off_and_instances_say_something_about_mig_mode(words: str, now: bool, then: bool) -> None:
    assert parse_words(words, gpus=None).mig_then(now=now) is then


@pytest.mark.parametrize("words", ["", "3g.40gb,", "3g.40gb@x", "3g.40gb@1@2", "a b", "1g.10gb=99"])
def test_words_that_cannot_be_read(words: str) -> None:
    with pytest.raises(BadLayout):
        parse_words(words, gpus=None)


def test_our_file_has_layouts_by_gpu_model_and_uuid() -> None:
    found = rules_by_gpu(parse_file(OURS, source="f"), [H100, H200])
    assert found[0].wishes == (Wish("3g.71gb", 4), Wish("1g.18gb"), Wish("1g.18gb"))
    assert found[1] == Rule(wishes=(), gpus=("GPU-b",), mig=False)


def test_a_file_of_mig_parted_is_read_as_it_is() -> None:
    found = rules_by_gpu(parse_file(MIG_PARTED, source="f", config="all-balanced"), [H100, H200])
    assert found[0].wishes == (Wish("1g.10gb"), Wish("1g.10gb"), Wish("3g.40gb"))
    assert found[1].wishes == (Wish("1g.18gb+me"),)
    off = rules_by_gpu(parse_file(MIG_PARTED, source="f", config="all-disabled"), [H100, H200])
    assert [rule.mig for rule in off.values()] == [False, False]


@pytest.mark.parametrize(
    ("text", "config", "says"),
    [
        ("a: [", None, "is no YAML"),
        ("a: 1", None, "neither a list `layouts` nor"),
        (MIG_PARTED, None, r"2 configurations: they are all-disabled, all-balanced.*--config NAME"),
        (MIG_PARTED, "x", "no configuration 'x'. It has: all-disabled"),
        ("layouts: []", "x", "only files of mig-parted do"),
        ("layouts: [{gpu: 0}]", None, r"layouts\[0\] has the unknown key gpu. Known: gpus"),
        ("layouts: [{models: [H1000]}]", None, "unknown model 'H1000'"),
        ("layouts: [{gpus: [0.5]}]", None, "indices and UUIDs"),
        ("layouts: [{mig: maybe}]", None, "true or false"),
        ("layouts: [{mig: false, instances: [1g.10gb]}]", None, "contradicts itself"),
        ("layouts: [{instances: {1g.10gb: -1}}]", None, "list of profiles"),
        ("mig-configs: {a: [{mig-enabled: true, mig-devices: {1c.3g.40gb: 2}}]}", None, "-cci"),
        ("mig-configs: {a: [{mig-enabled: true, device-filter: [H100]}]}", None, "write ids as"),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_why(text: str, config: str | None, says: str) -> None:
    with pytest.raises(BadLayout, match=says):
        parse_file(text, source="f", config=config)


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([Rule(wishes=(), gpus=("7",))], r"no GPU 7.*0 \(GPU-a\)"),
        ([Rule(wishes=()), Rule(wishes=(), gpus=("1",))], "GPU 1 has 2 layouts"),
        ([Rule(wishes=(), models=("A30-24GB",))], "no layout holds"),
    ],
)
def test_every_gpu_has_at_most_one_rule(rules: list[Rule], says: str) -> None:
    with pytest.raises(BadLayout, match=says):
        rules_by_gpu(rules, [H100, H200])
