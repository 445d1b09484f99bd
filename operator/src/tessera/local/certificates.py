"""The cluster's public-key infrastructure: one authority, and a certificate per identity.

Kubernetes reads who a client is from its certificate: the common name is the user, each organisation is a
group. Everything is made afresh for each cluster and lives in its state directory only, so a certificate of
one local cluster opens no other. Elliptic-curve keys, because they are made in a millisecond where RSA takes
a second.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALIDITY = datetime.timedelta(days=365)
# A clock that is a little behind the one that signed must not reject the certificate.
CLOCK_SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class KeyPair:
    """The files of one certificate and its private key (PEM; the key readable by its owner only)."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """The cluster's certificate authority: signs every certificate of the cluster."""

    files: KeyPair
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create_or_load(cls, directory: Path, *, name: str) -> Authority:
        """The authority in `directory`, made when it is not there (or only half there) yet."""
        files = KeyPair(directory / "ca.crt", directory / "ca.key")
        if not (files.certificate.exists() and files.key.exists()):
            _create_authority(files, name=name)
        key = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(files, x509.load_pem_x509_certificate(files.certificate.read_bytes()), key)

    def issue(
        self,
        name: str,
        *,
        common_name: str,
        organizations: Sequence[str] = (),
        server_names: Sequence[str] = (),
    ) -> KeyPair:
        """Makes `<name>.crt` and `<name>.key` beside the authority, unless both are there.

        Args:
            name: of the files.
            common_name: the user that Kubernetes sees.
            organizations: the groups that Kubernetes sees.
            server_names: DNS names and IP addresses that the certificate is valid for as a server; none makes
                a pure client certificate.
        """
        directory = self.files.certificate.parent
        files = KeyPair(directory / f"{name}.crt", directory / f"{name}.key")
        if files.certificate.exists() and files.key.exists():
            return files
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(
            subject=_subject(common_name, organizations),
            issuer=self.certificate.subject,
            public_key=key.public_key(),
        )
        if server_names:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
            names = [_general_name(server_name) for server_name in server_names]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        _write(files, key=key, certificate=certificate)
        return files


def create_signing_key(path: Path) -> None:
    """The key that signs service-account tokens; kept when it exists, since a new one voids every token."""
    if not path.exists():
        _write_secret(path, _pem(ec.generate_private_key(ec.SECP256R1())))


def _create_authority(files: KeyPair, *, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(name, ())
    certificate = (
        _builder(subject=subject, issuer=subject, public_key=key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_authority_key_usage(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(files, key=key, certificate=certificate)


def _authority_key_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    *, subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALIDITY)
    )


def _subject(common_name: str, organizations: Sequence[str]) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(files: KeyPair, *, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    # The certificate last: both files present means that the pair is complete.
    _write_secret(files.key, _pem(key))
    _replace(files.certificate, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        # Not PKCS#8: kube-apiserver reads the public half of the token key only from this older format.
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _write_secret(path: Path, content: bytes) -> None:
    _replace(path, content, mode=0o600)


def _replace(path: Path, content: bytes, *, mode: int) -> None:
    """Writes the whole file or nothing, with the mode set before the first byte."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    unfinished.rename(path)
