"""Hands this machine's way to the package index to an image build, without leaving it in the image.

Behind a company's index, proxy or certificate authority, pip inside a build would fail although pip on the
machine works. So the machine's own settings are written to a `pip.conf` which the builder mounts as a
secret, together with the certificates, while pip runs. Secrets are in no layer, no history and no cache
key.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tessera.local.errors import LocalClusterError

CA_BUNDLE_IN_BUILD = "/run/secrets/ca-bundle.crt"
"""Where the Dockerfile mounts the secret `ca-bundle`."""

CARRIED = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
"""The settings of pip that make sense on another file system."""

FALLBACKS = {
    "index-url": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "proxy": ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY"),
}

CA_BUNDLE_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
SYSTEM_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def pip_configuration(
    *, environment: Mapping[str, str], configured: Mapping[str, str], with_ca_bundle: bool
) -> str:
    """The `pip.conf` for the build: pip's own order of precedence, environment over files.

    Args:
        environment: the machine's environment variables.
        configured: the `[global]` section of the machine's pip configuration.
        with_ca_bundle: whether the certificates are mounted at `CA_BUNDLE_IN_BUILD`.
    """
    settings: dict[str, str] = {}
    for key in CARRIED:
        variables = (f"PIP_{key.upper().replace('-', '_')}",)
        candidates = [environment.get(name) for name in variables]
        candidates.append(configured.get(key))
        candidates += [environment.get(name) for name in FALLBACKS.get(key, ())]
        value = next((candidate for candidate in candidates if candidate), None)
        if value is not None:
            settings[key] = re.sub(r"\s*\n\s*", " ", value.strip())
    if with_ca_bundle:
        settings["cert"] = CA_BUNDLE_IN_BUILD
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())


@contextmanager
def build_secrets() -> Iterator[dict[str, Path]]:
    """The secrets of an image build, by id; the files are readable by this user only and gone afterwards."""
    configured = _pip_files(os.environ)
    bundle = ca_bundle(environment=os.environ, configured=configured)
    with TemporaryDirectory(prefix="tessera-build-") as directory:
        pip_conf = Path(directory) / "pip.conf"
        pip_conf.touch(mode=0o600)
        pip_conf.write_text(
            pip_configuration(
                environment=os.environ, configured=configured, with_ca_bundle=bundle is not None
            )
        )
        secrets = {"pip-conf": pip_conf}
        if bundle is not None:
            secrets["ca-bundle"] = bundle
        yield secrets


def ca_bundle(*, environment: Mapping[str, str], configured: Mapping[str, str]) -> Path | None:
    """The certificates that this machine trusts: what pip is told to use, else the system's, else None.

    Raises:
        LocalClusterError: pip is told to use a file that does not exist.
    """
    for name in CA_BUNDLE_VARIABLES:
        if value := environment.get(name):
            return _existing(value, source=name)
    if value := configured.get("cert"):
        return _existing(value, source="pip.conf")
    return SYSTEM_CA_BUNDLE if SYSTEM_CA_BUNDLE.exists() else None


def _existing(value: str, *, source: str) -> Path:
    path = Path(value)
    if not path.is_file():
        raise LocalClusterError(
            f"{source} names the certificates {value}, which is not a file: correct or unset it"
        )
    return path


def _pip_files(environment: Mapping[str, str]) -> dict[str, str]:
    """The `[global]` settings of the machine's pip configuration; the user's file wins over the system's."""
    home = Path.home()
    candidates = [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", home / ".config" / "pip" / "pip.conf"]
    if named := environment.get("PIP_CONFIG_FILE"):
        candidates.append(Path(named))
    parser = configparser.RawConfigParser()
    parser.read(path for path in candidates if path.is_file())
    return dict(parser["global"]) if parser.has_section("global") else {}
