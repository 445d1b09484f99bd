"""What a running worker tells the outside: `/progress` (JSON, read by the operator), `/metrics` and
`/healthz`.

The training loop writes into `Progress`, server threads read from it; a lock keeps a snapshot consistent. The
server starts before torch is imported, so that a pod answers from its first second.
"""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from tessera_workloads.errors import PortInUse

STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_RATE_MEMORY = 0.05
"""Weight of the newest step in the moving average of the step time."""


class Progress:
    """The state of one run as others see it. Steps count within the current phase."""

    def __init__(self, *, workload: str) -> None:
        self._lock = threading.Lock()
        self._phase = "starting"
        self._step = 0
        self._steps = 0
        self._step_seconds: float | None = None
        self._loss: float | None = None
        self._checkpoint_step: int | None = None
        self._resumed_from: int | None = None
        self.workload = workload
        self.registry = CollectorRegistry()
        name = {"workload": workload}
        labels = list(name)

        def gauge(metric: str, text: str) -> Gauge:
            return Gauge(f"workload_{metric}", text, labels, registry=self.registry).labels(**name)

        def counter(metric: str, text: str) -> Counter:
            return Counter(f"workload_{metric}", text, labels, registry=self.registry).labels(**name)

        self._m_step_seconds = Histogram(
            "workload_step_seconds",
            "Time of one training step",
            labels,
            buckets=STEP_BUCKETS,
            registry=self.registry,
        ).labels(**name)
        self._m_samples = counter("samples", "Samples trained on")
        self._m_checkpoints = counter("checkpoint", "Checkpoints written")
        self._m_loss = gauge("loss", "Loss of the last step")
        self._m_lr = gauge("lr", "Learning rate of the last step")
        self._m_step = gauge("steps", "Steps done in the current phase")
        self._m_steps = gauge("steps_target", "Steps of the current phase")
        self._m_check = Gauge(
            "workload_check_passed",
            "1 when the check passed",
            [*labels, "check", "kind"],
            registry=self.registry,
        )
        self._m_phase = Gauge(
            "workload_phase_info", "1 for the current phase", [*labels, "phase"], registry=self.registry
        )
        self._m_phase.labels(**name, phase=self._phase).set(1)

    def enter(self, phase: str, *, steps: int = 0, step: int = 0, resumed: bool = False) -> None:
        """A phase begins (or an evaluation, which has no steps and keeps the counts of the training before
        it).
        """
        with self._lock:
            self._m_phase.remove(self.workload, self._phase)
            self._phase = phase
            self._m_phase.labels(workload=self.workload, phase=phase).set(1)
            if steps:
                self._step, self._steps, self._step_seconds = step, steps, None
                self._checkpoint_step = step if resumed else None
                self._m_step.set(step)
                self._m_steps.set(steps)
            if resumed:
                self._resumed_from = step

    def stepped(self, *, step: int, seconds: float, samples: int, loss: float, lr: float) -> None:
        """One training step is done; `step` is the number of steps done."""
        with self._lock:
            self._step, self._loss = step, loss
            old = self._step_seconds
            self._step_seconds = seconds if old is None else old + _RATE_MEMORY * (seconds - old)
        self._m_step_seconds.observe(seconds)
        self._m_samples.inc(samples)
        self._m_loss.set(loss)
        self._m_lr.set(lr)
        self._m_step.set(step)

    def checkpointed(self, step: int) -> None:
        """A checkpoint at this step is on disk."""
        with self._lock:
            self._checkpoint_step = step
        self._m_checkpoints.inc()

    def judged(self, *, check: str, kind: str, passed: bool) -> None:
        """One check of the evaluation."""
        self._m_check.labels(workload=self.workload, check=check, kind=kind).set(passed)

    def snapshot(self) -> dict[str, Any]:
        """The `/progress` object of docs/architecture.md; unknown numbers are null."""
        with self._lock:
            seconds = self._step_seconds
            return {
                "workload": self.workload,
                "phase": self._phase,
                "step": self._step,
                "steps": self._steps,
                "stepsPerSecond": round(1 / seconds, 3) if seconds else None,
                "etaSeconds": round((self._steps - self._step) * seconds, 1) if seconds is not None else None,
                "loss": self._loss,
                "checkpointStep": self._checkpoint_step,
                "resumedFromStep": self._resumed_from,
            }


class _Handler(BaseHTTPRequestHandler):
    server: "ProgressServer"

    def do_GET(self) -> None:  # the name is http.server's
        path = self.path.split("?")[0]
        if path == "/progress":
            self._answer(200, "application/json", json.dumps(self.server.progress.snapshot()).encode())
        elif path == "/metrics":
            self._answer(200, CONTENT_TYPE_LATEST, generate_latest(self.server.progress.registry))
        elif path == "/healthz":
            self._answer(200, "text/plain", b"ok\n")
        else:
            self._answer(404, "text/plain", b"there is /progress, /metrics and /healthz\n")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is not worth a log line."""


class ProgressServer(ThreadingHTTPServer):
    """Serves one `Progress` on all addresses (IPv6 as well, where the host has it), in daemon threads."""

    daemon_threads = True

    def __init__(self, progress: Progress, *, port: int) -> None:
        self.progress = progress
        dual_stack = socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if dual_stack else socket.AF_INET
        try:
            super().__init__(("::" if dual_stack else "0.0.0.0", port), _Handler)
        except OSError as error:
            raise PortInUse(
                f"--port {port}: {error.strerror or error}; choose another port, or --port 0 for any free one"
            ) from error

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    @property
    def port(self) -> int:
        """The port that is really used."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Serve in the background until the process ends or `stop` is called."""
        threading.Thread(target=self.serve_forever, name="progress-server", daemon=True).start()

    def stop(self) -> None:
        """Stop serving and free the port."""
        self.shutdown()
        self.server_close()
