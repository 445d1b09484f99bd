"""The directory of the workers' libraries is named after what is in it."""

from __future__ import annotations

from tessera.local.images import checkout_directory
from tessera.local.worker_environment import MOUNT_PATH, environment_hash


def test_another_pin_or_another_processor_is_another_directory() -> None:
    known = environment_hash(requirements=b"torch==2.15.0\n", machine="x86_64")
    assert known == environment_hash(requirements=b"torch==2.15.0\n", machine="x86_64")
    assert known != environment_hash(requirements=b"torch==2.15.1\n", machine="x86_64")
    assert known != environment_hash(requirements=b"torch==2.15.0\n", machine="aarch64")


def test_the_image_looks_for_the_libraries_where_they_are_mounted() -> None:
    checkout = checkout_directory()
    assert f"PYTHONPATH={MOUNT_PATH}/site-packages" in (checkout / "Dockerfile").read_text()
    assert f"{MOUNT_PATH}/site-packages" in (checkout / "tools" / "worker-local").read_text()
