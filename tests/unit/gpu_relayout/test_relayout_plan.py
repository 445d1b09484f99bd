"""The plan of a new layout: legal by the simulator's rules, exactly as asked, and as little as possible."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.boards import every_profile, geometry_for, geometry_of_model
from tessera.gpu.profiles import model, models
from tessera.gpu.simulator import rules
from tessera.gpu.simulator.state import Instance, SimulatedGPU
from tessera.placement.geometry import Geometry
from tessera.relayout.errors import ImpossibleLayout
from tessera.relayout.plan import Change, Place, Standing, Step, Verb, Wish, plan_change

H100 = geometry_for("H100-80GB")


def geometry(name: str) -> Geometry:
    board = model(name)
    return geometry_of_model(board, profiles=every_profile(board))


def standing(name: str, place: Place, *, pids: tuple[int, ...] = (), compute: int = 1) -> Standing:
    profile = model(name).profile(place.profile)
    return Standing(
        profile.name, profile.id, place.start, profile.memory_slices, compute, (str(place),), pids
    )


def at(*places: tuple[str, int], pids: tuple[int, ...] = ()) -> list[Standing]:
    return [standing("H100-80GB", Place(start, profile), pids=pids) for profile, start in places]


def wishes(*texts: str) -> list[Wish]:
    parts = [text.partition("@") for text in texts]
    return [Wish(profile, int(start) if start else None) for profile, _, start in parts]


@st.composite
def legal_layouts(draw: st.DrawFn, name: str) -> list[Place]:
    """Any legal layout of the board: placements in a random order, each taken where it fits."""
    board = geometry(name)
    order = draw(st.permutations(range(len(board.placements))))
    key, chosen = 0, []
    for index in order[: draw(st.integers(0, len(order)))]:
        if board.fits(key, index):
            key = board.with_placed(key, index)
            chosen.append(Place(board.placements[index].start, board.placements[index].profile))
    return chosen


@st.composite
def questions(
    draw: st.DrawFn, boards: tuple[str, ...] = tuple(sorted(models()))
) -> tuple[str, list[Standing], list[Wish]]:
    """A board, what stands on it (some in use, half made or divided), and another layout that is possible."""
    name = draw(st.sampled_from(boards))
    there = [
        standing(
            name,
            place,
            pids=draw(st.sampled_from([(), (), (4711,)])),
            compute=draw(st.sampled_from([1, 1, 1, 0, 2])),
        )
        for place in draw(legal_layouts(name))
    ]
    asked = [
        Wish(place.profile, draw(st.sampled_from([None, place.start]))) for place in draw(legal_layouts(name))
    ]
    return name, there, asked


class Model:
    """A GPU that follows the simulator's rules; remembers which instance is which."""

    def __init__(self, name: str, there: list[Standing]) -> None:
        self.board = model(name)
        self.gpu = SimulatedGPU(index=0, uuid="GPU-0", model=name, serial=0, mig_current=True)
        self.serial = {}
        for serial, instance in enumerate(there):
            self.serial[instance.place] = serial
            self.gpu.instances.append(
                Instance(serial, instance.profile_id, instance.start, instance.size, serial=serial)
            )

    def run(self, step: Step) -> None:
        profile = self.board.profile(step.place.profile)
        if step.verb is Verb.CREATE:
            assert step.place not in self.serial
            answer = rules.check_create(
                self.gpu, profile_id=profile.id, start=step.place.start, size=profile.memory_slices
            )
            assert answer == rules.SUCCESS, step
            self.serial[step.place] = 100 + len(self.serial)
            serial = self.serial[step.place]
            self.gpu.instances.append(
                Instance(serial, profile.id, step.place.start, profile.memory_slices, serial=serial)
            )
        elif step.verb is Verb.DESTROY:
            serial = self.serial.pop(step.place)
            self.gpu.instances = [i for i in self.gpu.instances if i.serial != serial]
        else:
            assert step.place in self.serial


@given(questions())
@settings(deadline=None, max_examples=50)
def test_the_steps_give_exactly_the_asked_layout_and_leave_kept_instances_alone(
    question: tuple[str, list[Standing], list[Wish]],
) -> None:
    name, there, asked = question
    change = plan_change(geometry(name), there, asked)
    gpu = Model(name, there)
    before = dict(gpu.serial)
    for step in change.steps():
        gpu.run(step)
    assert Counter(place.profile for place in gpu.serial) == Counter(wish.profile for wish in asked)
    assert {Place(w.start, w.profile) for w in asked if w.start is not None} <= set(gpu.serial)
    for kept in (*change.kept, *change.completed):
        assert gpu.serial[kept.place] == before[kept.place]
    assert all(kept.compute_instances == 1 for kept in change.kept)
    assert not any(kept.compute_instances for kept in change.completed)
    parts = [*change.kept, *change.completed, *change.destroyed]
    assert Counter(s.place for s in parts) == Counter(s.place for s in there)


@given(questions(boards=("A30-24GB", "H100-80GB")))
@settings(deadline=None, max_examples=15)
def test_nothing_keeps_more_than_the_plan(question: tuple[str, list[Standing], list[Wish]]) -> None:
    """Against every legal layout of the board."""
    name, there, asked = question
    board = geometry(name)
    change = plan_change(board, there, asked)
    best = min(_destroyed(layout, there) for layout in all_layouts(name) if _answers(layout, asked))
    assert (len(change.blocked), len(change.destroyed)) == best


@cache
def all_layouts(name: str) -> list[set[Place]]:
    board = geometry(name)
    return [{_place(board, index) for index in indices} for indices in board.layouts()]


def _place(board: Geometry, index: int) -> Place:
    return Place(board.placements[index].start, board.placements[index].profile)


def _answers(layout: set[Place], asked: list[Wish]) -> bool:
    fixed = {Place(wish.start, wish.profile) for wish in asked if wish.start is not None}
    return fixed <= layout and Counter(p.profile for p in layout) == Counter(w.profile for w in asked)


def _destroyed(layout: set[Place], there: list[Standing]) -> tuple[int, int]:
    goes = [s for s in there if s.place not in layout or s.compute_instances > 1]
    return sum(bool(s.obstacle) for s in goes), len(goes)


def test_starts_are_chosen_so_that_what_is_there_stays() -> None:
    change = plan_change(H100, at(("3g.40gb", 0), ("1g.10gb", 5)), wishes("3g.40gb", "1g.10gb", "1g.10gb"))
    assert [s.place for s in change.kept] == [Place(0, "3g.40gb"), Place(5, "1g.10gb")]
    assert change.destroyed == ()


def test_an_instance_in_use_is_spared_even_when_more_idle_ones_go() -> None:
    there = [*at(("1g.10gb", 0), pids=(7,)), *at(("1g.10gb", 4), ("1g.10gb", 5), ("1g.10gb", 6))]
    change = plan_change(H100, there, wishes("3g.40gb", "1g.10gb", "1g.10gb", "1g.10gb"))
    assert [s.start for s in change.kept] == [0]
    assert [s.start for s in change.destroyed] == [4, 5, 6]
    assert change.blocked == ()


def test_an_instance_in_use_that_has_to_go_blocks_and_names_its_process() -> None:
    change = plan_change(H100, at(("1g.10gb", 2), pids=(7, 8)), wishes("7g.80gb"))
    assert [s.obstacle for s in change.blocked] == ["processes 7, 8"]


@pytest.mark.parametrize(
    ("asked", "start"), [("3g.40gb", 4), ("1g.10gb", 6)], ids=["three slices", "one slice"]
)
def test_an_empty_gpu_keeps_the_most_room(asked: str, start: int) -> None:
    """A 3g at 0 would strand a compute slice; beside a 1g at 6, a 4g still fits."""
    change = plan_change(H100, [], wishes(asked))
    assert change.created == (Place(start, asked),)


def test_a_half_made_instance_at_the_right_place_is_completed() -> None:
    half = standing("H100-80GB", Place(4, "3g.40gb"), compute=0)
    change = plan_change(H100, [half], wishes("3g.40gb"))
    assert change == Change(kept=(), completed=(half,), destroyed=(), created=())


def test_a_divided_instance_blocks_because_it_could_not_be_restored() -> None:
    divided = standing("H100-80GB", Place(4, "3g.40gb"), compute=2)
    (blocked,) = plan_change(H100, [divided], wishes("3g.40gb")).blocked
    assert "2 compute instances" in blocked.obstacle


def test_the_same_layout_is_no_change() -> None:
    assert plan_change(H100, at(("2g.20gb", 2)), wishes("2g.20gb")).is_empty


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["2g.10gb"], "has no profile 2g.10gb. Choose of: 1g.10gb"),
        (["3g.40gb@2"], "3g.40gb cannot start at 2. Legal starts: 0, 4"),
        (["4g.40gb", "4g.40gb"], "8 compute and 8 memory slices, of 7 and 8. .* this fits: 4g.40gb"),
        (["3g.40gb@4", "2g.20gb@4"], "no choice of starts .* this fits: 3g.40gb@4"),
        (["1g.10gb@0", "1g.10gb@0"], "no choice of starts"),
    ],
)
def test_an_impossible_layout_says_why_and_what_would_fit(asked: list[str], says: str) -> None:
    with pytest.raises(ImpossibleLayout, match=says):
        plan_change(H100, [], wishes(*asked))


def test_two_instances_with_media_extensions_are_refused() -> None:
    with pytest.raises(ImpossibleLayout, match="engines that a GPU has once"):
        plan_change(geometry("H100-80GB"), [], wishes("1g.10gb+me", "1g.10gb+me"))
