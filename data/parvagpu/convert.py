"""Writes `measurements.csv`, `slo1.yaml` to `slo6.yaml` and `published.csv` from a checkout of ParvaGPU.

    python data/parvagpu/convert.py PATH_TO_PARVAGPU_SC24

What is changed: one table instead of eleven; throughput is that of the slice (the artefact's is per process,
and its own reader multiplies in the same way); latency in milliseconds; sizes in compute slices become
profiles of an A100-80GB; rows that did not run (throughput 0) are left out; bounds are cut to whole
milliseconds, as the artefact's reader does.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
PROFILES = {1: "1g.10gb", 2: "2g.20gb", 3: "3g.40gb", 4: "4g.40gb", 7: "7g.80gb"}
COLUMNS = ("workload", "gpu", "profile", "processes", "batch", "throughput_per_second", "latency_ms", "mode")
SCENARIO = """\
# Scenario {number} of ParvaGPU (SC'24): request rates and latency bounds of its artefact.
# As there, a measured latency may take half of the bound less 10 %, and throughput is used to the full.
gpus:
- model: A100-80GB
utilisation: 1.0
latency_share: 0.45
measurements: measurements.csv
services:
"""


def main(checkout: Path) -> None:
    workloads = sorted(path.stem for path in (checkout / "prof_data").glob("*.csv"))
    _table("measurements.csv", COLUMNS, _measurements(checkout, workloads))
    rates = (checkout / "SLO" / "SLO_req_rate.csv").read_text().splitlines()
    bounds = (checkout / "SLO" / "SLO_latency.csv").read_text().splitlines()
    for number, (rate, bound) in enumerate(zip(rates, bounds, strict=True), start=1):
        text = SCENARIO.format(number=number)
        for workload, r, b in zip(workloads, rate.split(","), bound.split(","), strict=True):
            if r != "N/A":
                text += f"- {{name: {workload}, rate_per_second: {_cut(r)}, slo_ms: {_cut(b)}}}\n"
        (HERE / f"slo{number}.yaml").write_text(text)
    header = ("scenario", "gpu", "workload", "start", "profile", "batch", "processes")
    _table("published.csv", header, _published(checkout, len(rates)))


def _cut(number: str) -> int:
    return int(float(number))


def _table(name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with (HERE / name).open("w", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


def _measurements(checkout: Path, workloads: Iterable[str]) -> Iterable[Sequence[object]]:
    for workload in workloads:
        with (checkout / "prof_data" / f"{workload}.csv").open() as source:
            for row in csv.DictReader(source):
                processes = int(row["Workload Number"])
                throughput = float(row["Throughput"]) * processes
                if throughput:
                    profile = PROFILES[int(row["Mig instance"])]
                    latency = f"{float(row['Latency']) * 1000:g}"
                    size = row["Batch size"]
                    yield workload, "A100-80GB", profile, processes, size, f"{throughput:.6g}", latency, "mps"


def _published(checkout: Path, scenarios: int) -> Iterable[Sequence[object]]:
    for number in range(1, scenarios + 1):
        path = checkout / "deployment" / f"SLO{number}" / f"SLO{number}_ParvaGPU_deploy.csv"
        with path.open() as source:
            for row in csv.DictReader(source):
                gpu = int(row["Num instance"]) * 8 + int(row["Num GPU"])
                profile = PROFILES[int(row["Instance size"])]
                run = (row["Batch size"], row["Num proc"])
                yield number, gpu, row["Model"], row["Placement"], profile, *run


if __name__ == "__main__":
    main(Path(sys.argv[1]))
