"""``tessera pack``: how few GPUs are enough, exactly.

Two questions: a list of requests (``--requests 1g.10gb=12,3g.40gb=4``), or services with measured profiles,
rates and latency bounds (``--services FILE``). The answers come from `tessera.packing`; this module reads the
options and files, and prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from tessera.cli.pack_report import print_requests, print_services, requests_object, services_object
from tessera.cli.simulate_options import progress_bar
from tessera.packing.boards import Pool, parse_pool
from tessera.packing.comparison import PACKERS, compare
from tessera.packing.demand import parse_demand
from tessera.packing.errors import BadPackingInput
from tessera.packing.greedy import greedy_gpus
from tessera.packing.requests import DEFAULT_TIME_LIMIT_SECONDS, pack_requests
from tessera.packing.service_file import parse_services
from tessera.packing.service_plan import pack_services
from tessera.packing.services import Question
from tessera.simulate.report import print_json


@click.command("pack")
@click.option(
    "--gpu",
    "gpus",
    multiple=True,
    metavar="MODEL[:limit=N,cost=C]",
    help="A GPU model that may be used, with how many there are and what one costs. May be repeated.",
)
@click.option("--requests", metavar="PROFILE=N,...", help="How many instances of each profile are needed.")
@click.option(
    "--services",
    "services_file",
    type=click.Path(path_type=Path),
    help="Services with rates, latency bounds and measurements: YAML or CSV (see docs/pack.md).",
)
@click.option(
    "--utilisation",
    type=click.FloatRange(min=0, min_open=True, max=1),
    default=None,
    help="With --services: the part of a measured throughput that is counted on; overrides the file (0.9).",
)
@click.option(
    "--latency-share",
    type=click.FloatRange(min=0, min_open=True, max=1),
    default=None,
    help="With --services: the part of a bound that a measured latency may take; overrides the file (0.5).",
)
@click.option(
    "--share-slices/--own-slices",
    default=None,
    help="With --services: may processes of different services share a slice? Overrides the file (no).",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="With --requests: orders of arrival in which online packers are tried beside; 0: none.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    default=DEFAULT_TIME_LIMIT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="End the search then, with the best plan so far and its gap.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    gpus: tuple[str, ...],
    requests: str | None,
    services_file: Path | None,
    utilisation: float | None,
    latency_share: float | None,
    share_slices: bool | None,
    seeds: int,
    time_limit: float,
    as_json: bool,
) -> None:
    """Find the fewest GPUs that hold a list of requests, or services with latency bounds, and prove it."""
    if (requests is None) == (services_file is None):
        raise click.UsageError("Give either --requests PROFILE=N,... or --services FILE.")
    if services_file is None:
        if (utilisation, latency_share, share_slices) != (None, None, None):
            raise click.UsageError("--utilisation, --latency-share and --share-slices go with --services.")
        assert requests is not None
        if not gpus:
            raise click.UsageError("Give --gpu MODEL, for example --gpu H100-80GB.")
        _requests(_pools(gpus), requests, seeds=seeds, time_limit=time_limit, as_json=as_json)
        return
    question = parse_services(_text(services_file), source=str(services_file), read=_beside(services_file))
    room = replace(
        question.head_room,
        utilisation=utilisation or question.head_room.utilisation,
        latency_share=latency_share or question.head_room.latency_share,
    )
    question = replace(
        question,
        pools=tuple(_pools(gpus)) or question.pools,
        head_room=room,
        share_slices=question.share_slices if share_slices is None else share_slices,
    )
    _services(question, services_file, time_limit=time_limit, as_json=as_json)


def _requests(pools: list[Pool], requests: str, *, seeds: int, time_limit: float, as_json: bool) -> None:
    demand = parse_demand(requests)
    with _searching():
        plan = pack_requests(pools, demand, time_limit_seconds=time_limit)
    with progress_bar(seeds * len(PACKERS)) as bar:
        bar.begins("the same requests through online packers")
        runs = compare(pools, demand, plan, seeds=range(seeds), progress=bar.advanced)
    if as_json:
        print_json(requests_object(pools, demand, plan, runs))
    else:
        print_requests(pools, demand, plan, runs)


def _services(question: Question, file: Path, *, time_limit: float, as_json: bool) -> None:
    with _searching():
        plan = pack_services(question, time_limit_seconds=time_limit)
    greedy = greedy_gpus(question)
    if as_json:
        print_json(services_object(question, plan, file=str(file), greedy=greedy))
    else:
        print_services(question, plan, greedy=greedy)


@contextmanager
def _searching() -> Iterator[None]:
    """A sign of life on standard error while the solver works, when that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status("searching for the fewest GPUs"):
        yield


def _pools(texts: tuple[str, ...]) -> list[Pool]:
    pools = [parse_pool(text) for text in texts]
    names = [pool.name for pool in pools]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise BadPackingInput(f"--gpu {doubled} is given twice", "", "Give each model once.")
    return pools


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadPackingInput(f"{path} cannot be read", error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise BadPackingInput(f"{path} cannot be read", "it is no UTF-8 text") from error


def _beside(path: Path) -> Callable[[str], str]:
    """Reads files that are named relative to this one."""
    return lambda name: _text(path.parent / name)
