"""Engines that no longer speak the API versions of old clients, as Docker 29, which speaks 1.44 and later."""

from __future__ import annotations

import docker
import pytest
from docker.errors import APIError, DockerException

from tests.relay import Relay
from tests.rig import Rig

OLDEST, NEWEST = (1, 44), (1, 52)


def test_engine_that_speaks_new_versions_only(rig: Rig) -> None:
    """Everything from the creation of nginx to a changed target, through an engine that refuses all versions before 1.44."""
    with Relay(rig.directory / "newer.sock") as relay:
        relay.speak(OLDEST, NEWEST, str(rig.client.api_version))
        with pytest.raises((APIError, DockerException), match=r"Minimum supported API version is 1\.44"):
            docker.APIClient(relay.endpoint, version="1.41").containers()
        controller = rig.controller({"docker": {"endpoint": relay.endpoint}}, prefix=f"{rig.prefix}newer")
        labels = {f"{controller.prefix}.host": "newer.example", f"{controller.prefix}.service": "newer"}
        first = rig.run_container(name="first", other_labels=labels)
        controller.wait_for("newer.example", backend="first")
        rig.run_container(name="second", other_labels=labels)
        controller.wait_for("newer.example", backend="second", steady=0)
        first.kill()
        controller.wait_for("newer.example", backend="second")
        assert not [record for record in controller.records() if "client version" in str(record)]
        controller.stop()
