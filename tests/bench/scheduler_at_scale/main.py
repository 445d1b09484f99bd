"""How fast pods get their slices in a whole cluster: ours, kube-scheduler's own way, and the ceiling.

All arms run one after another on one control plane with KWOK nodes, with the same pods in the same order.
`docs/results/scheduler-at-scale.md` says what was measured and how to read it.

    make bench-scheduler BENCH_ARGS="--nodes 200 --pods 2000 --repeat 3"
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from bench.scheduler_at_scale import measures
from bench.scheduler_at_scale.arms import ARMS, Arm
from bench.scheduler_at_scale.cluster import ALLOCATOR, ROOT, BenchCluster
from bench.scheduler_at_scale.measures import Figures
from bench.scheduler_at_scale.runs import ArmRun, Sizes, clear
from tessera.local.errors import last_lines


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, with impossible ones refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=50, help="KWOK nodes (default 50)")
    parser.add_argument("--gpus", type=int, default=8, help="H100 GPUs per node (default 8)")
    parser.add_argument("--pods", type=int, default=1000, help="pods of the burst (default 1000)")
    parser.add_argument(
        "--churn-pods", type=int, default=None, help="pods replaced (default: half of --pods)"
    )
    parser.add_argument("--blocked", type=int, default=100, help="unplaceable claims (default 100)")
    parser.add_argument("--fill-nodes", type=int, default=4, help="nodes that are filled up (default 4)")
    parser.add_argument("--overload", type=float, default=1.3, help="slices asked for per slice there (1.3)")
    parser.add_argument("--native-cut", type=float, default=60.0, help="seconds for the native burst (60)")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for any other burst (600)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of every arm (default 3)")
    parser.add_argument("--arms", nargs="+", choices=[arm.name for arm in ARMS], help="only these")
    parser.add_argument("--out", type=Path, help="write the JSON object here, after every arm")
    parser.add_argument("--profile", type=Path, help="write where the allocators' time goes into this folder")
    parser.add_argument("--json", action="store_true", help="print the JSON object instead of the table")
    options = parser.parse_args(arguments)
    if options.profile is not None:
        options.profile = options.profile.resolve()
        options.profile.mkdir(parents=True, exist_ok=True)
    if options.fill_nodes > options.nodes:
        parser.error("--fill-nodes must not exceed --nodes")
    return options


async def run_arm(
    cluster: BenchCluster, arm: Arm, sizes: Sizes, *, seed: int, profile: Path | None
) -> Figures:
    """Set the cluster up for the arm, run it, and end its allocator. `profile`: a folder for what it spent
    its processor time on.
    """
    await asyncio.to_thread(cluster.restart_control_plane, default_limits=arm.default_limits)
    async with await cluster.client() as client:
        await asyncio.to_thread(cluster.allow_one_allocator_only, not arm.native)
        await cluster.set_device_class(client, present=arm.device_class)
        await cluster.allow_moves(client, arm.moves)
        port = None if arm.native else await asyncio.to_thread(cluster.start_allocator, arm.command(profile))
        try:
            run = ArmRun(cluster, client, arm, sizes, port=port, seed=seed)
            figures = await run.run(lambda what: _say(f"{arm.name}: {what}"))
        except Exception as error:
            if port is not None and cluster.pid(ALLOCATOR) is None:
                raise RuntimeError(f"the allocator has died: {last_lines(cluster.allocator_log)}") from error
            raise
        finally:
            await asyncio.to_thread(cluster.end, ALLOCATOR)
        return figures


async def run_all(options: argparse.Namespace, cluster: BenchCluster) -> dict[str, Any]:
    """Every arm, `--repeat` times; the result after each arm goes to `--out`."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    churn = options.pods // 2 if options.churn_pods is None else options.churn_pods
    sizes = Sizes(
        pods=options.pods,
        churn_pods=churn,
        blocked=options.blocked,
        overload=options.overload,
        native_cut=options.native_cut,
        limit=options.limit,
    )
    chosen = [arm for arm in ARMS if not options.arms or arm.name in options.arms]
    runs: dict[str, list[Figures]] = {arm.name: [] for arm in chosen}
    failures: list[dict[str, Any]] = []
    async with await cluster.client() as client:
        await cluster.write_gpu_nodes(client)
    tainted: bool | None = None
    result: dict[str, Any] = {}
    for repetition in range(options.repeat):
        # There and back again: what only ages with the cluster must not fall to the same arms.
        for arm in chosen if repetition % 2 == 0 else reversed(chosen):
            try:
                if tainted != (not arm.native):
                    tainted = None
                    async with await cluster.client() as client:
                        await cluster.publish(client, tainted=not arm.native)
                    tainted = not arm.native
                runs[arm.name].append(
                    await run_arm(cluster, arm, sizes, seed=repetition, profile=options.profile)
                )
            except Exception as error:
                # An arm that fails must not cost the figures of the others; it is told at the end again.
                what = f"{type(error).__name__}: {error}"
                failures.append({"arm": arm.name, "repetition": repetition, "error": what})
                _say(f"{arm.name} FAILED: {what}\n{traceback.format_exc()}")
                await _clear_after(cluster, failures[-1])
            result = summary(options, runs, failures)
            if options.out:
                options.out.write_text(json.dumps(result, indent=1))
    return result


async def _clear_after(cluster: BenchCluster, failure: dict[str, Any]) -> None:
    """Empty the cluster after an arm that failed. Where that fails too, later arms tell it in their turn."""
    try:
        async with await cluster.client() as client:
            await clear(client)
    except Exception as error:
        failure["clearing"] = f"{type(error).__name__}: {error}"
        _say(f"{failure['arm']}: what it left could not be cleared: {failure['clearing']}")


def summary(
    options: argparse.Namespace, runs: dict[str, list[Figures]], failures: list[dict[str, Any]]
) -> dict[str, Any]:
    """The JSON object: configuration, every run, medians and spreads by arm, and what is compared."""
    done = {name: figures for name, figures in runs.items() if figures}
    median = measures.beside_trivial({name: measures.medians(of) for name, of in done.items()})
    config = {key: value for key, value in vars(options).items() if key not in ("out", "json", "profile")}
    load = [round(value, 2) for value in os.getloadavg()]
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": _commit(),
        "load_at_the_end": load,
    }
    return {
        "config": config | machine,
        "arms": {arm.name: arm.story for arm in ARMS if arm.name in done},
        "runs": done,
        "failures": failures,
        "median": median,
        "spread": {name: measures.spread(figures) for name, figures in done.items()},
    }


def _commit() -> str:
    """The checkout's commit, marked when files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip() or "unknown"


def _say(line: str) -> None:
    print(f"[load {os.getloadavg()[0]:4.1f}] {line}", file=sys.stderr, flush=True)


def _stop(*_: object) -> NoReturn:
    """Ask for the ordinary end, so that the cluster is removed."""
    raise KeyboardInterrupt


def main() -> None:
    """Run and print."""
    options = parse()
    signal.signal(signal.SIGTERM, _stop)
    with BenchCluster(nodes=options.nodes, gpus=options.gpus, fill_nodes=options.fill_nodes) as cluster:
        result = asyncio.run(run_all(options, cluster))
    print(json.dumps(result, indent=1) if options.json else measures.table(result["median"]))
    for failure in result["failures"]:
        print("{arm} (repetition {repetition}) failed: {error}".format(**failure), file=sys.stderr)
    if result["failures"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
