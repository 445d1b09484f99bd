"""Credentials: the pod's own, a kubeconfig's, and the error when there are none."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tessera.api.errors import TesseraError
from tessera.kube import credentials
from tessera.kube.credentials import load_credentials


@pytest.fixture(scope="module")
def authority() -> bytes:
    """A certificate authority in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def service_account(tmp_path: Path, authority: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that a kubelet mounts into a pod, and its environment."""
    (tmp_path / "ca.crt").write_bytes(authority)
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "namespace").write_text("tessera-system")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return tmp_path


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    clusters = [{"name": name, "cluster": {"server": f"http://127.0.0.1:{port}"}} for name, port in _PORTS]
    contexts = [
        {"name": name, "context": {"cluster": name, "user": "u", "namespace": f"ns-{name}"}}
        for name, _ in _PORTS
    ]
    users = [{"name": "u", "user": {"token": "secret"}}]
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": clusters,
                "contexts": contexts,
                "users": users,
                "current-context": "one",
            }
        )
    )
    return path


_PORTS = (("one", 1001), ("two", 1002))


async def test_a_pod_uses_its_service_account(service_account: Path) -> None:
    found = load_credentials(service_account_directory=service_account)
    assert found.server == "https://[fd00::1]:443"
    assert found.namespace == "tessera-system"
    assert found.tls is not None
    assert found.tls.check_hostname
    assert await found.authorization() == "Bearer first"


async def test_a_rotated_token_is_read_when_asked_or_when_the_old_one_is_old(
    service_account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_credentials(service_account_directory=service_account)
    await found.authorization()
    (service_account / "token").write_text("second")
    assert await found.authorization() == "Bearer first"
    assert await found.authorization(fresh=True) == "Bearer second"
    (service_account / "token").write_text("third")
    monkeypatch.setattr(credentials, "TOKEN_MAX_AGE_SECONDS", -1.0)
    assert await found.authorization() == "Bearer third"


async def test_a_given_kubeconfig_wins_over_the_pod(service_account: Path, kubeconfig: Path) -> None:
    found = load_credentials(kubeconfig=kubeconfig, service_account_directory=service_account)
    assert found.server == "http://127.0.0.1:1001"
    assert found.namespace == "ns-one"
    assert await found.authorization() == "Bearer secret"


def test_a_context_can_be_chosen(kubeconfig: Path) -> None:
    found = load_credentials(kubeconfig=kubeconfig, context="two")
    assert (found.server, found.namespace) == ("http://127.0.0.1:1002", "ns-two")


def test_a_missing_kubeconfig_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(TesseraError) as caught:
        load_credentials(kubeconfig=tmp_path / "nowhere")
    assert "nowhere" in caught.value.what
    assert "tessera local up" in caught.value.remedy


def test_an_unknown_context_is_an_error(kubeconfig: Path) -> None:
    with pytest.raises(TesseraError, match="three"):
        load_credentials(kubeconfig=kubeconfig, context="three")


CONFIG = """
clusters: [{{name: a, cluster: {cluster}}}]
contexts: [{{name: a, context: {{cluster: a, user: u}}}}]
users: [{{name: u, user: {{token: secret}}}}]
current-context: a
"""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("root:x:0:0:root:/root:/bin/bash\n", "is not a kubeconfig"),
        ("[1, 2]", "is not a kubeconfig"),
        ("5", "is not a kubeconfig"),
        ("a: [", "is not a kubeconfig"),
        (b"\xff\xfe\x00\x80", "is not a kubeconfig"),
        ("", "file is empty"),
        (CONFIG.format(cluster="foo"), "is not a kubeconfig"),
        (CONFIG.format(cluster="{}"), "names no server"),
        (CONFIG.format(cluster="{server: 'https://x', certificate-authority-data: aGVsbG8=}"), "certificate"),
    ],
    ids=[
        "lines",
        "a list",
        "a number",
        "no YAML",
        "no text",
        "empty",
        "wrong shape",
        "no server",
        "no certificate",
    ],
)
def test_a_file_that_is_no_kubeconfig_is_one_clear_error(
    content: str | bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "some-file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TesseraError, match=reason) as told:
        load_credentials(kubeconfig=path)
    assert str(path) in str(told.value)
    assert "point KUBECONFIG at one" in str(told.value)
