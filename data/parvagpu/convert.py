"""Writes `measurements.csv`, `slo1.yaml` to `slo6.yaml` and `published.csv` from a checkout of ParvaGPU.

    python data/parvagpu/convert.py PATH_TO_PARVAGPU_SC24

What is changed: one table instead of eleven; throughput is that of the slice (the artefact's is per process, and
its own reader multiplies in the same way); latency in milliseconds; sizes in compute slices become profiles of an
A100-80GB; rows that did not run (throughput 0) are left out; bounds are cut to whole milliseconds, as the artefact's
reader does.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

HERE = Path(__file__).parent
PROFILES = {1: "1g.10gb", 2: "2g.20gb", 3: "3g.40gb", 4: "4g.40gb", 7: "7g.80gb"}


def main(checkout: Path) -> None:
    workloads = sorted(path.stem for path in (checkout / "prof_data").glob("*.csv"))
    with (HERE / "measurements.csv").open("w", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(
            [
                "workload",
                "gpu",
                "profile",
                "processes",
                "batch",
                "throughput_per_second",
                "latency_ms",
                "mode",
            ]
        )
        for workload in workloads:
            with (checkout / "prof_data" / f"{workload}.csv").open() as source:
                for row in csv.DictReader(source):
                    processes = int(row["Workload Number"])
                    throughput = float(row["Throughput"]) * processes
                    if throughput:
                        profile = PROFILES[int(row["Mig instance"])]
                        latency = round(float(row["Latency"]) * 1000, 3)
                        table.writerow(
                            [workload, "A100-80GB", profile, processes, row["Batch size"]]
                            + [f"{throughput:.6g}", f"{latency:g}", "mps"]
                        )
    rates = (checkout / "SLO" / "SLO_req_rate.csv").read_text().splitlines()
    bounds = (checkout / "SLO" / "SLO_latency.csv").read_text().splitlines()
    for number, (rate, bound) in enumerate(zip(rates, bounds, strict=True), start=1):
        lines = [
            f"# Scenario {number} of ParvaGPU (SC'24): request rates and latency bounds of its artefact.",
            "# A measured latency may take half of the bound, less 10 %; throughput is planned to the full, as there.",
            "gpus:",
            "- model: A100-80GB",
            "utilisation: 1.0",
            "latency_share: 0.45",
            "measurements: measurements.csv",
            "services:",
        ]
        for workload, r, b in zip(workloads, rate.split(","), bound.split(","), strict=True):
            if r != "N/A":
                lines.append(
                    f"- {{name: {workload}, rate_per_second: {int(float(r))}, slo_ms: {int(float(b))}}}"
                )
        (HERE / f"slo{number}.yaml").write_text("\n".join(lines) + "\n")
    with (HERE / "published.csv").open("w", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["scenario", "gpu", "workload", "start", "profile", "batch", "processes"])
        for number in range(1, len(rates) + 1):
            path = checkout / "deployment" / f"SLO{number}" / f"SLO{number}_ParvaGPU_deploy.csv"
            with path.open() as source:
                for row in csv.DictReader(source):
                    gpu = int(row["Num instance"]) * 8 + int(row["Num GPU"])
                    profile = PROFILES[int(row["Instance size"])]
                    table.writerow(
                        [number, gpu, row["Model"], row["Placement"], profile]
                        + [row["Batch size"], row["Num proc"]]
                    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
