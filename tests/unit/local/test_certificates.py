"""Certificates say who a client is and which names a server has; keys are for their owner's eyes."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tessera.local.certificates import Authority, KeyPair, create_signing_key


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create_or_load(tmp_path, name="test authority")


def load(files: KeyPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(files.certificate.read_bytes())


def usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_a_client_certificate_names_user_and_groups(authority: Authority) -> None:
    certificate = load(
        authority.issue("node", common_name="system:node:one", organizations=["system:nodes", "others"])
    )
    names = certificate.subject
    assert [name.value for name in names.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["system:node:one"]
    groups = [name.value for name in names.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    assert groups == ["system:nodes", "others"]
    assert usages(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_a_server_certificate_holds_addresses_and_names(authority: Authority) -> None:
    certificate = load(
        authority.issue("api", common_name="api", server_names=["10.0.0.1", "kubernetes.default.svc"])
    )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.0.0.1")]
    assert names.get_values_for_type(x509.DNSName) == ["kubernetes.default.svc"]
    assert ExtendedKeyUsageOID.SERVER_AUTH in usages(certificate)


def test_certificates_are_signed_by_their_authority_only(authority: Authority, tmp_path: Path) -> None:
    certificate = load(authority.issue("client", common_name="me"))
    certificate.verify_directly_issued_by(authority.certificate)
    (tmp_path / "other").mkdir()
    other = Authority.create_or_load(tmp_path / "other", name="test authority")
    with pytest.raises(InvalidSignature):
        certificate.verify_directly_issued_by(other.certificate)


def test_a_certificate_cannot_sign_others(authority: Authority) -> None:
    certificate = load(authority.issue("client", common_name="me"))
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_keys_are_readable_by_their_owner_only(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue("client", common_name="me")
    create_signing_key(tmp_path / "sa.key")
    for key in (authority.files.key, files.key, tmp_path / "sa.key"):
        assert key.stat().st_mode & 0o777 == 0o600


def test_a_second_up_keeps_every_certificate(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue("client", common_name="me")
    create_signing_key(tmp_path / "sa.key")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    again = Authority.create_or_load(tmp_path, name="test authority")
    assert again.issue("client", common_name="me") == files
    create_signing_key(tmp_path / "sa.key")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_pair_that_is_only_half_there_is_made_anew(authority: Authority) -> None:
    files = authority.issue("client", common_name="me")
    files.certificate.unlink()
    authority.issue("client", common_name="me")
    key = ssl.create_default_context()
    key.load_cert_chain(files.certificate, files.key)  # Raises when the two do not match.


def test_keys_have_the_format_that_the_api_server_reads(tmp_path: Path) -> None:
    """It takes the public half of the token key from an `EC PRIVATE KEY`, not from PKCS#8."""
    create_signing_key(tmp_path / "sa.key")
    assert (tmp_path / "sa.key").read_text().startswith("-----BEGIN EC PRIVATE KEY-----")


def test_curves_are_p256(authority: Authority) -> None:
    assert isinstance(authority.key.curve, ec.SECP256R1)
