"""What ``tessera pack`` prints: a plan as a short table of layouts, or the JSON object of all simulations."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import click

from tessera.packing.boards import Pool
from tessera.packing.comparison import PACKERS
from tessera.packing.plan import Group, Proof, gpus_by_model
from tessera.packing.program import solver_name
from tessera.packing.requests import RequestPlan
from tessera.packing.service_check import Share
from tessera.packing.service_plan import ServicePlan
from tessera.packing.services import Question, Use
from tessera.simulate.report import cell, print_table, report_object
from tessera.simulate.statistics import summarise


def requests_object(
    pools: Sequence[Pool],
    demand: Mapping[str, int],
    plan: RequestPlan,
    runs: Sequence[Mapping[str, float]],
) -> dict[str, Any]:
    """The JSON object; every run is complete: the plan with its proof, and the packers in one order."""
    config = {
        "command": "pack",
        "gpus": [pool_object(pool) for pool in pools],
        "requests": dict(demand),
        "solver": solver_name(),
    }
    result = {"gpus": plan.gpus, **proof_object(plan.proof)}
    layouts = [group_object(group) for group in plan.groups]
    complete = [{"seed": run.get("seed"), **result, **run, "layouts": layouts} for run in runs or [{}]]
    return report_object(config, complete, identify=("seed", "layouts"))


def pool_object(pool: Pool) -> dict[str, Any]:
    """A pool as JSON."""
    return {"model": pool.name, "cost": pool.cost, "limit": pool.limit}


def proof_object(proof: Proof) -> dict[str, Any]:
    """A proof as JSON."""
    return {
        "cost": proof.cost,
        "lower_bound": proof.lower_bound,
        "gap_pct": proof.gap_pct,
        "proven_optimal": proof.optimal,
        "certified": proof.certified,
        "solver_ms": proof.seconds * 1000,
        "configurations": proof.configurations,
    }


def group_object(group: Group) -> dict[str, Any]:
    """A group of equal GPUs as JSON."""
    placements = [
        {"profile": tile.profile, "start": tile.start, **({} if tile.use is None else use_object(tile.use))}
        for tile in group.tiles
    ]
    return {"model": group.model, "count": group.count, "placements": placements}


def use_object(use: Use) -> dict[str, Any]:
    """What runs in a slice, as JSON."""
    seats = [
        {"service": name, "processes": 1 if use.shared else m.processes, "batch": m.batch, "mode": m.mode}
        for name, m in use.seats
    ]
    return {"shared": use.shared, "runs": seats}


def services_object(
    question: Question, plan: ServicePlan, *, file: str, greedy: int | None
) -> dict[str, Any]:
    """The JSON object of a plan for services; there is one run, since nothing is left to chance."""
    config = {
        "command": "pack",
        "services": file,
        "gpus": [pool_object(pool) for pool in question.pools],
        "utilisation": question.head_room.utilisation,
        "latency_share": question.head_room.latency_share,
        "share_slices": question.share_slices,
        "solver": solver_name(),
    }
    run = {
        "gpus": plan.gpus,
        **proof_object(plan.proof),
        "greedy_gpus": greedy,
        "layouts": [group_object(group) for group in plan.groups],
        "services": [share_object(share) for share in plan.shares],
    }
    return report_object(config, [run], identify=("layouts", "services"))


def share_object(share: Share) -> dict[str, Any]:
    """What a service gets, as JSON."""
    return {
        "name": share.service.name,
        "rate_per_second": share.service.rate_per_second,
        "slo_ms": share.service.slo_ms,
        "slices": share.slices,
        "capacity_per_second": share.capacity_per_second,
        "load_pct": share.load_pct,
        "latency_ms": share.latency_ms,
    }


def print_services(question: Question, plan: ServicePlan, *, greedy: int | None) -> None:
    """The plan for people, in 80 columns: layouts with what runs where, then what each service gets."""
    count = len(plan.shares)
    click.echo(f"{count} {'service' if count == 1 else 'services'}: {gpus_in_words(plan.groups)}")
    click.echo(proof_in_words(question.pools, plan.proof))
    if greedy is not None:
        click.echo(f"a greedy planner needs {greedy}")
    if question.share_slices:
        click.echo("assumed: in a shared slice others slow a process no more than copies of it do")
    click.echo()
    for group in plan.groups:
        lead = f"{group.count:>5} x "
        if len(question.pools) > 1:
            click.echo(lead + group.model)
            lead = " " * len(lead)
        for number, tile in enumerate(group.tiles):
            head = (lead if number == 0 else " " * len(lead)) + f"{tile.profile}@{tile.start}".ljust(12) + " "
            click.echo(_beside(head, str(tile.use), width=79 - len(head)))
    click.echo()
    print_table(
        "What each service gets",
        ["service", "rate/s", "slices", "capacity/s", "load %", "ms", "bound ms"],
        [
            [
                share.service.name,
                f"{share.service.rate_per_second:g}",
                f"{share.slices:.3g}",
                f"{share.capacity_per_second:.4g}",
                f"{share.load_pct:.1f}",
                f"{share.latency_ms:g}",
                f"{share.service.slo_ms:g}",
            ]
            for share in plan.shares
        ],
    )


def print_requests(
    pools: Sequence[Pool],
    demand: Mapping[str, int],
    plan: RequestPlan,
    runs: Sequence[Mapping[str, float]],
) -> None:
    """The plan for people, in 80 columns."""
    asked = sum(demand.values())
    click.echo(f"{asked} requests: {gpus_in_words(plan.groups)}")
    click.echo(proof_in_words(pools, plan.proof))
    print_layouts(plan.groups, several=len(pools) > 1)
    if runs:
        _print_comparison(plan, runs)


def gpus_in_words(groups: Sequence[Group]) -> str:
    """`27 H100-80GB` or `10 H100-80GB + 17 A100-80GB`."""
    return " + ".join(f"{count} {model}" for model, count in gpus_by_model(groups).items())


def proof_in_words(pools: Sequence[Pool], proof: Proof) -> str:
    """One line: optimal or the gap, and who proves it."""
    plain = all(pool.cost == 1 for pool in pools)
    unit = "cost" if not plain else "GPU" if proof.cost == 1 else "GPUs"
    by = f"{solver_name()}, {proof.seconds * 1000:.0f} ms"
    if proof.optimal:
        how = "bound checked in exact arithmetic" if proof.certified else "by the solver's search"
        return f"proven optimal ({proof.cost:g} {unit}; {how}; {by})"
    return (
        f"not proven optimal: {proof.cost:g} {unit}, at least {proof.lower_bound:g} are needed, "
        f"gap {proof.gap_pct:.1f} % ({by})"
    )


def print_layouts(groups: Sequence[Group], *, several: bool) -> None:
    """The layouts, one line for each group of equal GPUs."""
    click.echo()
    for group in groups:
        tiles = " ".join(f"{tile.profile}@{tile.start}" for tile in group.tiles)
        model = f" {group.model}" if several else ""
        head = f"{group.count:>6} x{model} ["
        click.echo(_beside(head, tiles, width=max(20, 79 - len(head))) + "]")


def _beside(head: str, text: str, *, width: int) -> str:
    """The text after the head, its further lines indented as far; words are never broken."""
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return head + f"\n{' ' * len(head)}".join(lines)


def _print_comparison(plan: RequestPlan, runs: Sequence[Mapping[str, float]]) -> None:
    mean, ci95 = summarise(runs)
    orders = "1 order" if len(runs) == 1 else f"{len(runs)} orders"
    rows = [["exact plan", str(plan.gpus), "1.000"]]
    rows += [
        [name, cell(mean, ci95, f"{name}_gpus"), cell(mean, ci95, f"{name}_ratio", digits=3)]
        for name in PACKERS
    ]
    click.echo()
    print_table(
        f"Packers that see one request at a time, {orders} of arrival",
        ["packer", "GPUs", "ratio"],
        rows,
    )
