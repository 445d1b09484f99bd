"""A build reaches the package index the way this machine does."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest
from tessera.local.errors import LocalClusterError
from tessera.local.package_index import CA_BUNDLE_IN_BUILD, build_secrets, ca_bundle, pip_configuration


def settings(
    *,
    environment: dict[str, str] | None = None,
    configured: dict[str, str] | None = None,
    with_ca_bundle: bool = False,
) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    parser.read_string(
        pip_configuration(
            environment=environment or {}, configured=configured or {}, with_ca_bundle=with_ca_bundle
        )
    )
    return dict(parser["global"])


def test_a_machine_without_settings_needs_none() -> None:
    assert settings() == {}


def test_the_environment_wins_over_the_configuration_file() -> None:
    found = settings(
        environment={"PIP_INDEX_URL": "https://one.invalid/simple"},
        configured={"index-url": "https://two.invalid/simple", "timeout": "180"},
    )
    assert found == {"index-url": "https://one.invalid/simple", "timeout": "180"}


def test_settings_of_uv_serve_where_pip_has_none() -> None:
    assert settings(environment={"UV_DEFAULT_INDEX": "https://uv.invalid/simple"})["index-url"].startswith(
        "https://uv.invalid"
    )
    both = {"UV_DEFAULT_INDEX": "https://uv.invalid/simple", "PIP_INDEX_URL": "https://pip.invalid/simple"}
    assert settings(environment=both)["index-url"] == "https://pip.invalid/simple"


def test_a_proxy_of_the_machine_is_the_proxy_of_the_build() -> None:
    assert settings(environment={"https_proxy": "http://proxy.invalid:3128"})["proxy"] == (
        "http://proxy.invalid:3128"
    )


def test_paths_of_this_machine_stay_out() -> None:
    environment = {"PIP_FIND_LINKS": "/opt/wheels", "PIP_CERT": "/etc/corporate.pem"}
    assert settings(environment=environment) == {}
    assert settings(environment=environment, with_ca_bundle=True) == {"cert": CA_BUNDLE_IN_BUILD}


def test_an_index_list_over_several_lines_becomes_one_line() -> None:
    found = settings(configured={"extra-index-url": "\nhttps://one.invalid\nhttps://two.invalid"})
    assert found["extra-index-url"] == "https://one.invalid https://two.invalid"


def test_the_certificates_are_those_that_pip_uses(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("certificates")
    assert ca_bundle(environment={"PIP_CERT": str(bundle)}, configured={"cert": "/other.pem"}) == bundle
    assert ca_bundle(environment={}, configured={"cert": str(bundle)}) == bundle


def test_certificates_that_do_not_exist_are_an_error_that_names_the_variable() -> None:
    with pytest.raises(LocalClusterError, match="SSL_CERT_FILE names the certificates"):
        ca_bundle(environment={"SSL_CERT_FILE": "/nowhere/bundle.pem"}, configured={})


def test_secrets_are_private_and_gone_after_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@index.invalid/simple")
    with build_secrets() as secrets:
        path = secrets["pip-conf"]
        assert "user:secret@index.invalid" in path.read_text()
        assert path.stat().st_mode & 0o077 == 0
    assert not path.exists()
