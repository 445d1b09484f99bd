"""`tessera gpu layout|apply|check`: one question, asked to show the difference, make it, or test for it."""

from __future__ import annotations

import asyncio
import functools
import json
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from tessera.cli.gpu_picture import console, plan_object, plan_picture, summary
from tessera.cli.gpu_source import Simulated, opened, read_settled, settle, source_options
from tessera.cli.layout_file import read_layout_file
from tessera.relayout.errors import BadLayout
from tessera.relayout.planning import plan_machine
from tessera.relayout.reading import Machine, read_machine
from tessera.relayout.transaction import GPUPlan
from tessera.relayout.transaction import apply as apply_plans
from tessera.relayout.wanted import Rule, parse_file, parse_words

Planned = tuple[Machine, tuple[GPUPlan, ...]]


@dataclass(frozen=True, slots=True)
class Question:
    """Which layout, as words or a file, which GPUs shall have it, and where they are."""

    spec: str
    gpus: tuple[str, ...]
    config: str | None
    simulate: Simulated | None
    state: Path | None


def _question(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and options that the three commands share; the command gets them as one `Question`."""

    @click.argument("spec")
    @click.option(
        "--gpu",
        "gpus",
        multiple=True,
        metavar="INDEX|UUID",
        help="Which GPU shall have the layout; may be repeated; all: every one. For layouts in words.",
    )
    @click.option("--config", metavar="NAME", help="Which configuration of a file of mig-parted.")
    @source_options
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    @functools.wraps(function)
    def wrapped(
        *,
        spec: str,
        gpus: tuple[str, ...],
        config: str | None,
        simulate: Simulated | None,
        state: Path | None,
        **others: Any,
    ) -> Any:
        asked = Question(spec=spec, gpus=gpus, config=config, simulate=simulate, state=state)
        return function(asked, **others)

    return wrapped


@click.command("layout")
@_question
def layout(asked: Question, *, as_json: bool) -> None:
    """Show what it takes to have the layout SPEC; change nothing. Exit 1 when something blocks it.

    SPEC is a layout in words (3g.71gb@4,2g.35gb,1g.18gb=2, or none, or off) or a YAML file (docs/gpu.md).
    """
    _lay_out(asked, as_json=as_json)


@click.command("check")
@_question
def check(asked: Question, *, as_json: bool) -> None:
    """Exit 0 when the GPUs have the layout SPEC, 1 when not; print the difference.

    Where SPEC leaves the start of a profile open, any start is right.
    """
    machine, plans = asyncio.run(_read_and_plan(asked))
    same = all(plan.is_empty for plan in plans)
    _show(machine, plans, as_json=as_json, result="as asked" if same else "different")
    sys.exit(0 if same else 1)


@click.command("apply")
@_question
@click.option("--dry-run", is_flag=True, help="Show the difference and end, like `layout`.")
def apply(asked: Question, *, as_json: bool, dry_run: bool) -> None:
    """Give the GPUs the layout SPEC as one transaction: all of it, or everything stays as it was.

    Instances that may stay are not touched. Nothing is done while a process runs in an instance that has to
    go. Any error, and Ctrl-C, brings the former layout back; after kill -9 the next call does.
    """
    if dry_run:
        _lay_out(asked, as_json=as_json)
    asyncio.run(_apply(asked, as_json=as_json))


def _lay_out(asked: Question, *, as_json: bool) -> NoReturn:
    machine, plans = asyncio.run(_read_and_plan(asked))
    blocked = any(plan.obstacles() for plan in plans if not plan.is_empty)
    _show(machine, plans, as_json=as_json, result="blocked" if blocked else "planned")
    sys.exit(1 if blocked else 0)


async def _apply(asked: Question, *, as_json: bool) -> None:
    async with opened(asked.simulate, asked.state) as source:
        with source.journal.locked():
            await settle(source)
            machine, plans = _planned(await read_machine(source.driver), asked)
            unchanged = all(plan.is_empty for plan in plans)
            if not as_json:
                _show(machine, plans, as_json=False, result="")
            await apply_plans(source.driver, plans, source.journal, stopped=_on_ctrl_c())
        result = "unchanged" if unchanged else "applied"
        if as_json:
            _show(machine, plans, as_json=True, result=result)
        else:
            click.echo(f" {result}: {summary(plans)}")


def _on_ctrl_c() -> Callable[[], bool]:
    """From now on Ctrl-C and SIGTERM do not kill: they are seen between two steps."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    return asked.is_set


async def _read_and_plan(asked: Question) -> Planned:
    async with opened(asked.simulate, asked.state) as source:
        return _planned(await read_settled(source), asked)


def _planned(machine: Machine, asked: Question) -> Planned:
    return machine, plan_machine(machine, _rules(machine, asked))


def _rules(machine: Machine, asked: Question) -> Sequence[Rule]:
    spec, gpus, config = asked.spec, asked.gpus, asked.config
    path = Path(spec)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if gpus:
            raise BadLayout(f"--gpu does not go with {spec}", "the file says which GPUs it is about")
        return parse_file(read_layout_file(spec), source=spec, config=config)
    if config is not None:
        raise BadLayout("--config goes with a file", f"{spec!r} is a layout in words")
    if not gpus and len(machine.gpus) != 1:
        raise BadLayout(
            f"which of the {len(machine.gpus)} GPUs is meant", "", "Say --gpu INDEX, or --gpu all"
        )
    return (parse_words(spec, gpus=None if not gpus or "all" in gpus else gpus),)


def _show(machine: Machine, plans: Sequence[GPUPlan], *, as_json: bool, result: str) -> None:
    if as_json:
        found = {"result": result, "gpus": [plan_object(plan) for plan in plans]}
        click.echo(json.dumps(found, indent=2))
        return
    by_index = {read.gpu.index: read for read in machine.gpus}
    out = console()
    for plan in plans:
        out.print(plan_picture(plan, by_index[plan.index], width=out.width))
    out.print()
    if result:
        out.print(f" {result}: {summary(plans)}")
