"""Where the commands of `tessera gpu` get their GPUs from: the driver of this machine, or the simulator.

Every call first settles a change that was cut off, as a database does with its journal when it is opened.
"""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tessera.api.errors import TesseraError
from tessera.gpu.driver import Driver, LocalDriver
from tessera.gpu.faults import NO_PERMISSION, NVMLFault
from tessera.gpu.nvml import NVML
from tessera.gpu.nvml_process import MOST_SIMULATED_GPUS, NVMLProcess
from tessera.gpu.profiles import UnknownModel, board
from tessera.gpu.simulator.library import SimulatedLibrary
from tessera.gpu.simulator.state import DamagedState
from tessera.relayout.errors import JournalInTheWay
from tessera.relayout.journal import Journal
from tessera.relayout.reading import Machine, read_machine
from tessera.relayout.settling import Settled
from tessera.relayout.transaction import recover

_NO_DRIVER = (9, 12, 28)


@dataclass(frozen=True, slots=True)
class Source:
    """The GPUs of a call: who answers for them, and where their journal is."""

    driver: Driver
    journal: Journal


@dataclass(frozen=True, slots=True)
class Simulated:
    """What `--simulate` asks for."""

    model: str
    count: int


def _simulated(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Simulated | None:
    """Read `MODEL` or `MODEL:COUNT`."""
    if value is None:
        return None
    name, _, count = value.partition(":")
    try:
        board(name)
    except UnknownModel as error:
        raise click.BadParameter(str(error), ctx, parameter) from error
    if (count or ":" in value) and not (count.isdecimal() and 1 <= int(count) <= MOST_SIMULATED_GPUS):
        raise click.BadParameter(
            f"the number of GPUs has to be 1..{MOST_SIMULATED_GPUS}, not {count!r}", ctx, parameter
        )
    return Simulated(model=name, count=int(count or 1))


def source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that all commands of the group have."""

    @click.option(
        "--simulate",
        callback=_simulated,
        metavar="MODEL[:COUNT]",
        help="Simulated GPUs instead of this machine's, e.g. H200-141GB:2.",
    )
    @click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Where simulated GPUs and unfinished changes are kept; default: the user's state directory.",
    )
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapped


def default_state_directory() -> Path:
    """`$XDG_STATE_HOME/tessera/gpu` or `~/.local/state/tessera/gpu`."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "tessera" / "gpu"


@asynccontextmanager
async def opened(simulate: Simulated | None, state: Path | None) -> AsyncIterator[Source]:
    """The GPUs; closed at the end. Whatever the driver says becomes an error with a remedy for a person."""
    root = state or default_state_directory()
    if simulate is None:
        driver: Driver = NVMLProcess()
        directory = root / "driver"
    else:
        # Other GPUs have another directory, so that trying a second model does not swap the first one out.
        directory = root / f"simulated-{simulate.model}-{simulate.count}"
        driver = _simulator(directory, simulate)
    try:
        yield Source(driver=driver, journal=Journal(directory))
    except NVMLFault as fault:
        raise _for_a_person(fault, simulated=simulate is not None) from fault
    except DamagedState as error:
        raise _no_simulator(directory, error) from error
    finally:
        await _close(driver)


async def _close(driver: Driver) -> None:
    try:
        await driver.close()
    except NVMLFault as fault:
        click.echo(f"note: the driver's session was not closed: {fault.symbol}", err=True)


def _simulator(directory: Path, simulate: Simulated) -> Driver:
    try:
        library = SimulatedLibrary.at(
            directory, model=simulate.model, count=simulate.count, seed=simulate.model
        )
    except (OSError, DamagedState, ValueError) as error:
        raise _no_simulator(directory, error) from error
    return LocalDriver(NVML(library), simulated=True)


def _no_simulator(directory: Path, error: Exception) -> TesseraError:
    return TesseraError(
        f"the simulated GPUs in {directory} cannot be used", str(error), "Or name another with --state DIR"
    )


def _for_a_person(fault: NVMLFault, *, simulated: bool) -> TesseraError:
    if fault.code in _NO_DRIVER and not simulated:
        return TesseraError(
            "this machine has no usable NVIDIA driver",
            fault.meaning,
            "Install it (then nvidia-smi answers), or try simulated GPUs: --simulate H200-141GB",
        )
    remedy = "Run it as root" if fault.code == NO_PERMISSION else fault.remedy.capitalize()
    on = f" on {fault.target}" if fault.target else ""
    detail = f" ({fault.detail})" if fault.detail else ""
    return TesseraError(f"{fault.call}{on} failed with {fault.symbol}", f"{fault.meaning}{detail}", remedy)


async def read_settled(source: Source) -> Machine:
    """The machine, after an unfinished change has been settled where that is possible.

    Where it is not (another command is at work, or the driver refuses), a line on standard error says so, and
    the machine is shown as it is.
    """
    try:
        if source.journal.read() is not None:
            with source.journal.locked():
                await settle(source)
    except TesseraError as error:
        words = " ".join(str(error).split())
        click.echo(f"note: a change of the layout is unfinished: {words}", err=True)
    return await read_machine(source.driver)


async def settle(source: Source) -> None:
    """Settle an unfinished change; the caller holds the lock. Raises `JournalInTheWay` when it cannot be."""
    try:
        settled = await recover(source.driver, source.journal)
    except NVMLFault as fault:
        raise JournalInTheWay(
            "an unfinished change of the layout cannot be settled",
            f"{fault.call} on {fault.target}: {fault.symbol}, {fault.meaning}",
            f"Correct that and try again; what is owed stands in {source.journal.path}",
        ) from fault
    if settled is not None:
        words = "the former layout is back" if settled is Settled.OLD else "it is complete now"
        click.echo(f"note: a change of the layout had been cut off; {words}", err=True)
