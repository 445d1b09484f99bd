"""Gates on the exact table and on every trained form; the rest is shown beside them, and drawn."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tessera_workloads.mlm import judgement, picture
from tessera_workloads.mlm.parameters import MlmParameters
from tessera_workloads.mlm.workload import Mlm
from tessera_workloads.protocol import Check, Metrics

NAMES = ("gap", "rectangle", "disagreement", "sign_joint", "sign_conditional", "sign_average")
GOOD = dict(zip(NAMES, (0.4, 0.6, 0.1, 0.9, 0.8, 0.85), strict=True))


def with_ends(measures: dict[str, float]) -> dict[str, float]:
    ends = {f"{name}{end}": value for name, value in measures.items() for end in ("_low", "_high")}
    squares = {f"mse_{name}": 1.0 for name in ("joint", "conditional", "average")}
    return measures | ends | squares


def judged(trained: dict[str, float], *, exact: float = 0.0) -> list[Check]:
    rows: list[dict[str, Any]] = [
        {"model": "t5", "stage": stage, **with_ends(measures)}
        for stage, measures in (("trained", trained), ("untrained", dict.fromkeys(NAMES, 0.0)))
    ]
    ways = ("baseline", "offset 1", "ensemble", "mean", "exact likelihood", "best possible")
    answers = [{"way": way, **with_ends({"accuracy": 0.5, "gain": -0.1})} for way in ways]
    tables = {"consistency": rows, "completion": answers}
    return Mlm().checks(MlmParameters(), Metrics(values=judgement.values(exact, tables), tables=tables))


def failed(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if check.kind == "gate" and not check.passed}


def test_a_model_with_the_effect_passes_and_its_untrained_self_is_a_control() -> None:
    checks = judged(GOOD)
    assert failed(checks) == set()
    assert sum(check.kind == "gate" for check in checks) == 4
    assert [check.value for check in checks if check.kind == "control"] == [0.0, 0.0, 0.0]
    told = {check.name: check.value for check in checks if check.kind == "report"}
    assert told["completion, ensemble: gain over the baseline"] == -0.1
    assert "completion, offset 1: accuracy" not in told


@pytest.mark.parametrize(
    ("changed", "gate"),
    [
        ({"gap": 0.09}, "t5: median |joint - conditional|"),
        ({"rectangle": 0.29}, "t5: rectangle"),
        ({"sign_average": 0.79}, "t5: sign accuracy of the average above the worse single one"),
    ],
)
def test_every_bound_decides(changed: dict[str, float], gate: str) -> None:
    assert failed(judged(GOOD | changed)) == {gate}


def test_a_table_that_is_not_exact_fails() -> None:
    assert failed(judged(GOOD, exact=2e-5)) == {"exact table: largest inconsistency"}


def test_a_contradiction_is_a_red_point_off_the_diagonal() -> None:
    def red_points(conditional: float) -> int:
        columns = {name: np.array([2.0]) for name in ("joint", "truth")} | {
            "conditional": np.array([conditional])
        }
        pixels = np.asarray(Image.open(BytesIO(picture.draw_contradictions({"t5": columns}))))
        return int((pixels == picture._WRONG).all(axis=2).sum())

    assert red_points(3.0) == 0
    assert red_points(-1.0) == 4  # two by two, in the left panel alone: the average has the right sign
