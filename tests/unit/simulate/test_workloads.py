"""What arrives: clusters, mixes, lifetimes, and the order of events."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

import pytest
from tessera.simulate.cluster import parse_cluster
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.lifetimes import lifetimes_of
from tessera.simulate.mixes import mix_of
from tessera.simulate.online import default_arrivals, poisson_workload, population
from tessera.simulate.workload import Workload, ordered_events

H100 = parse_cluster(["H100-80GB"], gpus=100)


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


class TestCluster:
    def test_one_model_with_a_count_beside_it(self) -> None:
        assert (H100.gpus, H100.memory_slices) == (100, 800)
        assert list(H100.sizes.items())[-1] == ("7g.80gb", 8)

    def test_several_models_are_numbered_in_order(self) -> None:
        cluster = parse_cluster(["H100-80GB:3", "A30:2"], gpus=None)
        assert cluster.config() == [
            {"model": "H100-80GB", "gpus": 3, "first_gpu": 0},
            {"model": "A30-24GB", "gpus": 2, "first_gpu": 3},
        ]
        assert parse_cluster(["h100-80gb:3", "a30:2"], gpus=None) == cluster
        assert cluster.memory_slices == 3 * 8 + 2 * 4
        assert [g.memory_slices for g in cluster.geometry_by_gpu()] == [8, 8, 8, 4, 4]

    def test_suffixed_profiles_are_offered_when_they_are_asked_for(self) -> None:
        assert "1g.10gb+me" not in H100.geometries[0].profiles
        assert "1g.10gb+me" in H100.offering(["1g.10gb+me", "2g.20gb"]).geometries[0].profiles

    @pytest.mark.parametrize(
        ("models", "gpus", "says"),
        [
            (["H200"], 0, "Give at least one GPU"),
            (["B100"], None, "'B100' is not in the profile table"),
            (["A100"], None, "it may be A100-40GB, A100-80GB"),
            (["H100-80GB:60"], 5, "Leave --gpus out"),
            (["H100-80GB:60", "A30"], None, "Write A30:40"),
            (["H100-80GB:many"], None, "'many' is no number of GPUs"),
        ],
    )
    def test_what_is_wrong_is_said(self, models: list[str], gpus: int | None, says: str) -> None:
        with pytest.raises(BadSimulationInput, match=says):
            parse_cluster(models, gpus=gpus)


class TestMixes:
    @pytest.mark.parametrize(
        ("name", "mean"), [("uniform", 3.5), ("skew-small", 2.4), ("skew-big", 4.65), ("bimodal", 3.9)]
    )
    def test_named_mixes_of_an_eight_slice_gpu(self, name: str, mean: float) -> None:
        mix = mix_of(name, H100)
        assert sum(mix.shares.values()) == pytest.approx(1)
        assert list(mix.shares) == ["1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"]
        assert mix.mean_size(H100) == pytest.approx(mean)

    def test_the_shape_is_stretched_over_three_profiles(self) -> None:
        a30 = parse_cluster(["A30"], gpus=4)
        shares = mix_of("skew-small", a30).shares
        # The line through .30 .25 .20 .10 .10 .05 at its first point, its middle and its last.
        assert list(shares) == ["1g.6gb", "2g.12gb", "4g.24gb"]
        assert list(shares.values()) == pytest.approx([0.3 / 0.5, 0.15 / 0.5, 0.05 / 0.5])

    def test_mixed_models_get_the_same_load_each(self) -> None:
        cluster = parse_cluster(["H100-80GB:60", "A30:40"], gpus=None)
        mix = mix_of("uniform", cluster)
        rate = population(cluster, mix, load=1.0)
        on_a30 = sum(
            rate * share * cluster.sizes[p]
            for p, share in mix.shares.items()
            if p.endswith(("6gb", "12gb", "24gb"))
        )
        assert on_a30 == pytest.approx(40 * 4)
        assert rate * mix.mean_size(cluster) == pytest.approx(60 * 8 + 40 * 4)

    def test_a_file_gives_any_weights(self, tmp_path: Path) -> None:
        path = written(tmp_path / "mix.csv", "profile,weight\n7g.80gb,1\n1g.10gb+me,3\n")
        assert mix_of(path, H100).shares == {"1g.10gb+me": 0.75, "7g.80gb": 0.25}

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("profile,weight\n1g.10gb,0\n", "line 2: weight 0 is not above 0"),
            ("profile,weight\n1g.10gb,-1\n", "weight -1 is not above 0"),
            ("profile,weight\n1g.10gb,nan\n", "weight nan is not above 0"),
            ("profile,weight\n1g.10gb,much\n", "weight 'much' is no number"),
            ("profile,weight\n1g.10gb\n", "weight None is no number"),
            ("profile,weight\n1g.5gb,1\n", "profile '1g.5gb' does not exist on H100-80GB.*Did you mean"),
            ("profile,weight\n1g.10gb,1\n1g.10gb,2\n", "line 3: profile 1g.10gb stands there twice"),
            ("profile,weight\n", "has no profile"),
            ("profile\n1g.10gb\n", "column weight is missing"),
            ("", "column profile is missing"),
        ],
    )
    def test_a_wrong_file_is_told_with_its_line(self, text: str, says: str, tmp_path: Path) -> None:
        with pytest.raises(BadSimulationInput, match=says):
            mix_of(written(tmp_path / "mix.csv", text), H100)

    def test_a_name_that_is_none(self) -> None:
        with pytest.raises(BadSimulationInput, match="neither a file nor one of uniform"):
            mix_of("unifrom", H100)


class TestLifetimes:
    @pytest.mark.parametrize("text", ["exponential", "lognormal:0.5"])
    def test_the_mean_is_as_asked(self, text: str) -> None:
        drawn = lifetimes_of(text, mean_seconds=100).draw(random.Random(1), 20_000)
        assert statistics.fmean(drawn) == pytest.approx(100, rel=0.03)
        assert min(drawn) > 0

    def test_a_file_keeps_its_values_and_its_mean(self, tmp_path: Path) -> None:
        path = written(tmp_path / "seconds.txt", "seconds\n10\n\n30.5\n")
        lifetimes = lifetimes_of(path)
        assert lifetimes.mean_seconds == 20.25
        assert set(lifetimes.draw(random.Random(1), 50)) == {10.0, 30.5}

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("lognormal:x", "SIGMA is a number"),
            ("lognormal:0", "SIGMA is a number"),
            ("weibull", "neither exponential, lognormal:SIGMA nor a file"),
        ],
    )
    def test_a_wrong_distribution(self, text: str, says: str) -> None:
        with pytest.raises(BadSimulationInput, match=says):
            lifetimes_of(text)

    @pytest.mark.parametrize(
        ("text", "says"),
        [("", "is empty"), ("5\nfive\n", "line 2: 'five' is no number"), ("5\n-1\n", "line 2: '-1'")],
    )
    def test_a_wrong_file(self, text: str, says: str, tmp_path: Path) -> None:
        with pytest.raises(BadSimulationInput, match=says):
            lifetimes_of(written(tmp_path / "seconds.txt", text))


class TestPoissonWorkload:
    def draw(self, *, seed: int = 0, load: float = 1.0) -> Workload:
        return poisson_workload(
            H100,
            mix_of("uniform", H100),
            load=load,
            lifetimes=lifetimes_of("exponential", mean_seconds=1.0),
            arrivals=5000,
            seed=seed,
        )

    def test_it_offers_the_load(self) -> None:
        workload = poisson_workload(
            H100,
            mix_of("bimodal", H100),
            load=0.8,
            lifetimes=lifetimes_of("exponential", mean_seconds=50.0),
            arrivals=20_000,
            seed=3,
        )
        stayed = sum(
            (left - came) * H100.sizes[workload.profiles[wanted]]
            for came, left, wanted in zip(
                workload.arrivals, workload.departures, workload.wanted, strict=True
            )
        )
        assert stayed / workload.arrivals[-1] == pytest.approx(0.8 * 800, rel=0.03)
        assert workload.counted_from == 6000

    def test_a_seed_decides_it_and_another_seed_differs(self) -> None:
        assert self.draw(seed=1) == self.draw(seed=1)
        assert self.draw(seed=1) != self.draw(seed=2)

    def test_loads_share_their_random_numbers(self) -> None:
        low, high = self.draw(load=0.5), self.draw(load=1.0)
        assert low.wanted == high.wanted
        assert low.arrivals == pytest.approx([2 * t for t in high.arrivals])

    def test_a_large_cluster_gets_more_arrivals(self) -> None:
        assert default_arrivals(H100, mix_of("uniform", H100), load=1.0) == 40_000
        large = parse_cluster(["H100-80GB"], gpus=8000)
        assert default_arrivals(large, mix_of("uniform", large), load=1.0) == 182_858

    @pytest.mark.parametrize("load", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_load_that_is_none(self, load: float) -> None:
        with pytest.raises(BadSimulationInput, match="load"):
            self.draw(load=load)


def test_departures_come_before_arrivals_of_the_same_time_and_never_before_their_own() -> None:
    assert ordered_events([0.0, 1.0, 2.0, 2.0], [2.0, 1.0, 9.0, 2.5]) == [0, 1, ~1, ~0, 2, 3]
