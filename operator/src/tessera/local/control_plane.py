"""A real Kubernetes control plane on this machine, without a node: what the integration tests run against.

etcd, kube-apiserver, kube-controller-manager and kube-scheduler, built from Go modules, with TLS everywhere,
RBAC and the Node authorizer on, as in a production cluster; only durability is off (etcd does not sync). `up`
may be called any number of times: it starts what is not running and leaves the rest alone, so it also
repairs.
"""

from __future__ import annotations

import ipaddress
import json
import os
import ssl
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from tessera.local.build import CONTROL_PLANE_PROGRAMS, ensure_binaries
from tessera.local.certificates import Authority, KeyPair, create_signing_key
from tessera.local.errors import LocalClusterError, ProcessFailedError, last_lines
from tessera.local.journal import Journal
from tessera.local.kubeconfig import write_kubeconfig
from tessera.local.ports import free_ports
from tessera.local.processes import main_process, start
from tessera.local.progress import Progress
from tessera.local.readiness import answers_ok, client_context, fetch, wait_ready
from tessera.local.state import ClusterState, Identity
from tessera.local.teardown import tear_down

ROLES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
START_TIMEOUT_SECONDS = 60.0
# A port that was free when it was chosen can be taken by the time the server binds it.
PORT_ATTEMPTS = 3


@dataclass(frozen=True)
class Endpoints:
    """Where the processes listen, chosen once per cluster and kept for repairs.

    Attributes:
        address: of the API server; one that pods can reach where there is a real node, else 127.0.0.1.
        service_cidr: the cluster's service network; its first address stands for the API server.
        ports: by role; `etcd-peer` too.
    """

    address: str
    service_cidr: str
    ports: dict[str, int] = field(default_factory=dict)

    @classmethod
    def choose(cls, *, address: str = "127.0.0.1", service_cidr: str = "10.96.0.0/24") -> Self:
        """Free ports at `address` (API server) and 127.0.0.1 (all others)."""
        names = ("etcd", "etcd-peer", "kube-controller-manager", "kube-scheduler")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        (ports["kube-apiserver"],) = free_ports(1, address=address)
        if ports["kube-apiserver"] in [ports[name] for name in names]:
            return cls.choose(address=address, service_cidr=service_cidr)
        return cls(address, service_cidr, ports)

    @property
    def server(self) -> str:
        """URL of the API server."""
        return f"https://{self.address}:{self.ports['kube-apiserver']}"

    @property
    def service_address(self) -> str:
        """The address of the service `kubernetes` inside the cluster."""
        return str(ipaddress.ip_network(self.service_cidr)[1])


class ControlPlane:
    """One control plane in its own state directory.

    Use as a context manager where it should go away again:

        with ControlPlane(ClusterState.of("test", state_dir=tmp_path)) as control_plane:
            client = await KubeClient.connect(kubeconfig=control_plane.kubeconfig)
    """

    def __init__(self, state: ClusterState, *, progress: Progress | None = None) -> None:
        self.state = state
        self.progress = progress or Progress()
        self._journal = Journal(state.journal.path)
        self._children: list[subprocess.Popen[bytes]] = []

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig (group system:masters)."""
        return self.state.kubeconfig

    @property
    def journal(self) -> Journal:
        """The cluster's journal, shared by everything that this command makes."""
        return self._journal

    def up(self, *, endpoints: Endpoints | None = None) -> None:
        """Brings all four processes to readiness, starting what does not run.

        Args:
            endpoints: where to listen, on the first call; free ports of 127.0.0.1 if not given.

        Raises:
            ProcessFailedError: a process ended or was not ready in a minute; quotes its log.
            NotOursError: the state directory holds something else.
            LocalClusterError: the binaries cannot be built.
        """
        identity = self.state.create(self._journal)
        binaries = ensure_binaries(CONTROL_PLANE_PROGRAMS, progress=self.progress)
        for attempt in range(1, PORT_ATTEMPTS + 1):
            chosen = self._load_or_choose(endpoints)
            self._write_credentials(chosen)
            try:
                with self.progress.step("starting etcd and the API server"):
                    self._ensure("etcd", identity, self._etcd(binaries, chosen))
                    self._ensure("kube-apiserver", identity, self._api_server(binaries, chosen))
                    self._wait_for_api_server(identity, chosen)
                with self.progress.step("starting controller manager and scheduler"):
                    for role in ("kube-controller-manager", "kube-scheduler"):
                        self._ensure(
                            role, identity, getattr(self, f"_{role[5:].replace('-', '_')}")(binaries, chosen)
                        )
                    for role in ("kube-controller-manager", "kube-scheduler"):
                        self._wait_healthz(role, identity, chosen)
                return
            except ProcessFailedError as failure:
                if attempt == PORT_ATTEMPTS or "address already in use" not in last_lines(failure.log):
                    raise
                self.progress.say(f"{failure.process}: its port was taken meanwhile, choosing others")
                self._endpoints_file.unlink(missing_ok=True)

    def down(self) -> None:
        """Removes everything that this cluster made, including its state directory."""
        tear_down(self.state, progress=self.progress)

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def endpoints(self) -> Endpoints | None:
        """Where the processes listen; None before the first `up`."""
        try:
            return Endpoints(**json.loads(self._endpoints_file.read_text()))
        except FileNotFoundError:
            return None

    def kubectl(self, *arguments: str, input_text: str | None = None) -> str:
        """Runs kubectl as administrator and returns its standard output.

        Raises:
            LocalClusterError: kubectl failed; the message is its own.
        """
        program = ensure_binaries(["kubectl"], progress=self.progress) / "kubectl"
        command = [str(program), "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, input=input_text, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LocalClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def fetch(self, path: str) -> bytes | None:
        """What the API server answers to the administrator's GET of `path`; None if it is not 200.

        For polling while the cluster starts: no process is spawned.
        """
        endpoints = self.endpoints()
        if endpoints is None:
            return None
        return fetch(endpoints.address, endpoints.ports["kube-apiserver"], path, tls=self._admin_tls())

    def _admin_tls(self) -> ssl.SSLContext:
        pki = self.state.pki
        return client_context(authority=pki / "ca.crt", client=KeyPair(pki / "admin.crt", pki / "admin.key"))

    @property
    def _endpoints_file(self) -> Path:
        return self.state.directory / "endpoints.json"

    def _load_or_choose(self, wanted: Endpoints | None) -> Endpoints:
        known = self.endpoints()
        if known is not None:
            return known
        chosen = (
            Endpoints.choose(address=wanted.address, service_cidr=wanted.service_cidr)
            if wanted
            else Endpoints.choose()
        )
        unfinished = self._endpoints_file.with_name(f".endpoints.{os.getpid()}")
        unfinished.write_text(json.dumps(asdict(chosen), indent=1))
        unfinished.rename(self._endpoints_file)
        return chosen

    # Credentials

    def _write_credentials(self, endpoints: Endpoints) -> None:
        authority = Authority.create_or_load(self.state.pki, name=f"tessera-local-{self.state.name}")
        authority.issue(
            "kube-apiserver",
            common_name="kube-apiserver",
            server_names=(
                *dict.fromkeys((endpoints.address, "127.0.0.1")),
                endpoints.service_address,
                "localhost",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
            ),
        )
        # kubelets let this group read logs and attach, through the role that the API server ships with.
        authority.issue(
            "kubelet-client", common_name="kube-apiserver-kubelet-client", organizations=["system:masters"]
        )
        create_signing_key(self.state.pki / "sa.key")
        admin = authority.issue("admin", common_name="tessera-local-admin", organizations=["system:masters"])
        self._kubeconfig_for(self.kubeconfig, admin, endpoints, user="admin")
        for role in ("kube-controller-manager", "kube-scheduler"):
            client = authority.issue(role, common_name=f"system:{role}")
            self._kubeconfig_for(self.state.pki / f"{role}.kubeconfig", client, endpoints, user=role)
        # An authority of its own: a certificate that the cluster signs must not open its database.
        (self.state.pki / "etcd").mkdir(exist_ok=True)
        etcd = Authority.create_or_load(self.state.pki / "etcd", name="etcd")
        etcd.issue("etcd", common_name="etcd", server_names=("127.0.0.1", "localhost"))
        etcd.issue("client", common_name="kube-apiserver")

    def issue_client(self, name: str, *, common_name: str, organizations: tuple[str, ...] = ()) -> KeyPair:
        """A client certificate of this cluster, for a node or a test user."""
        authority = Authority.create_or_load(self.state.pki, name=f"tessera-local-{self.state.name}")
        return authority.issue(name, common_name=common_name, organizations=organizations)

    def issue_server(self, name: str, *, common_name: str, names: tuple[str, ...]) -> KeyPair:
        """A serving certificate of this cluster for the given addresses and DNS names."""
        authority = Authority.create_or_load(self.state.pki, name=f"tessera-local-{self.state.name}")
        return authority.issue(
            name, common_name=common_name, organizations=["system:nodes"], server_names=names
        )

    def write_client_kubeconfig(self, path: Path, *, client: KeyPair, user: str) -> None:
        """A kubeconfig for a certificate from `issue_client`.

        Raises:
            LocalClusterError: the control plane was never started.
        """
        endpoints = self.endpoints()
        if endpoints is None:
            raise LocalClusterError(
                f"cluster {self.state.name} was never started: run `tessera local up` first"
            )
        self._kubeconfig_for(path, client, endpoints, user=user)

    def _kubeconfig_for(self, path: Path, client: KeyPair, endpoints: Endpoints, *, user: str) -> None:
        write_kubeconfig(
            path,
            cluster=f"tessera-{self.state.name}",
            server=endpoints.server,
            authority=self.state.pki / "ca.crt",
            client=client,
            user=user,
        )

    # Processes

    def _ensure(self, role: str, identity: Identity, command: list[str]) -> None:
        if main_process(role, identity=identity) is None:
            log = self._log(role)
            self._children.append(start(role, command, identity=identity, journal=self._journal, log=log))

    def _log(self, role: str) -> Path:
        return self.state.logs / f"{role}.log"

    def _etcd(self, binaries: Path, endpoints: Endpoints) -> list[str]:
        client, peer = (f"https://127.0.0.1:{endpoints.ports[name]}" for name in ("etcd", "etcd-peer"))
        pki = self.state.pki / "etcd"
        command = [
            str(binaries / "etcd"),
            f"--data-dir={self.state.directory / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
        ]
        for prefix in ("", "peer-"):
            command += [
                f"--{prefix}cert-file={pki / 'etcd.crt'}",
                f"--{prefix}key-file={pki / 'etcd.key'}",
                f"--{prefix}trusted-ca-file={pki / 'ca.crt'}",
                f"--{prefix}client-cert-auth=true",
            ]
        return command

    def _api_server(self, binaries: Path, endpoints: Endpoints) -> list[str]:
        pki = self.state.pki
        return [
            str(binaries / "kube-apiserver"),
            f"--etcd-servers=https://127.0.0.1:{endpoints.ports['etcd']}",
            f"--etcd-cafile={pki / 'etcd' / 'ca.crt'}",
            f"--etcd-certfile={pki / 'etcd' / 'client.crt'}",
            f"--etcd-keyfile={pki / 'etcd' / 'client.key'}",
            f"--bind-address={endpoints.address}",
            f"--advertise-address={endpoints.address}",
            f"--secure-port={endpoints.ports['kube-apiserver']}",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--tls-cert-file={pki / 'kube-apiserver.crt'}",
            f"--tls-private-key-file={pki / 'kube-apiserver.key'}",
            f"--service-account-key-file={pki / 'sa.key'}",
            f"--service-account-signing-key-file={pki / 'sa.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--anonymous-auth=false",
            "--allow-privileged",
            f"--service-cluster-ip-range={endpoints.service_cidr}",
            f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
            f"--kubelet-client-key={pki / 'kubelet-client.key'}",
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            "--kubelet-preferred-address-types=InternalIP",
            "--profiling=false",
        ]

    def _controller_manager(self, binaries: Path, endpoints: Endpoints) -> list[str]:
        pki = self.state.pki
        return [
            str(binaries / "kube-controller-manager"),
            f"--kubeconfig={pki / 'kube-controller-manager.kubeconfig'}",
            f"--service-account-private-key-file={pki / 'sa.key'}",
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--cluster-signing-cert-file={pki / 'ca.crt'}",
            f"--cluster-signing-key-file={pki / 'ca.key'}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={endpoints.ports['kube-controller-manager']}",
            "--profiling=false",
        ]

    def _scheduler(self, binaries: Path, endpoints: Endpoints) -> list[str]:
        return [
            str(binaries / "kube-scheduler"),
            f"--kubeconfig={self.state.pki / 'kube-scheduler.kubeconfig'}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={endpoints.ports['kube-scheduler']}",
            # The default of 50 requests a second, not the scheduler itself, bounds a burst of pods.
            "--kube-api-qps=1000",
            "--kube-api-burst=1000",
            "--profiling=false",
        ]

    def _wait_for_api_server(self, identity: Identity, endpoints: Endpoints) -> None:
        tls = self._admin_tls()
        port = endpoints.ports["kube-apiserver"]

        def alive() -> bool:
            for role in ("etcd", "kube-apiserver"):
                if main_process(role, identity=identity) is None:
                    raise ProcessFailedError(process=role, reason="it ended at once", log=self._log(role))
            return True

        wait_ready(
            "kube-apiserver",
            lambda: answers_ok(endpoints.address, port, "/readyz", tls=tls),
            alive=alive,
            log=self._log("kube-apiserver"),
            timeout_seconds=START_TIMEOUT_SECONDS,
        )

    def _wait_healthz(self, role: str, identity: Identity, endpoints: Endpoints) -> None:
        tls = client_context(authority=None, client=None)
        wait_ready(
            role,
            lambda: answers_ok("127.0.0.1", endpoints.ports[role], "/healthz", tls=tls),
            alive=lambda: main_process(role, identity=identity) is not None,
            log=self._log(role),
            timeout_seconds=START_TIMEOUT_SECONDS,
        )
