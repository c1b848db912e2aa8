"""The controller as its image: not root, nothing writable but its volumes, its own mounts found on the host for nginx."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.rig import LOOPBACK, Box, Rig, ask, endpoint, free_port, until

IMAGE = "proxyctl-testbed/proxyctl"


class InContainer:
    """The controller in a container, as README.md and compose.yaml start it."""

    def __init__(self, rig: Rig) -> None:
        self.port, api = free_port(), free_port()
        self.nginx = f"{rig.run}-nginx-of-image"
        socket = (endpoint() or "unix:///var/run/docker.sock").removeprefix("unix://")
        self.volumes = [f"{rig.run}-state", f"{rig.run}-run"]
        for volume in self.volumes:
            rig.client.create_volume(volume, labels=rig.marks)
        settings = {
            "PROXYCTL_NGINX__IMAGE": "proxyctl-testbed/nginx:1.31.3",
            "PROXYCTL_NGINX__PULL": "never",
            "PROXYCTL_NGINX__CONTAINER": self.nginx,
            "PROXYCTL_NGINX__PUBLISH": f"{LOOPBACK}:{self.port}:80",
            "PROXYCTL_API__LISTEN": f"{LOOPBACK}:{api}",
            "PROXYCTL_DISCOVERY__LABEL_PREFIX": rig.prefix,
        }
        self.env = [f"{key}={value}" for key, value in settings.items()]
        self.host_config = {
            "Binds": [
                f"{socket}:/var/run/docker.sock",
                f"{self.volumes[0]}:/var/lib/proxyctl",
                f"{self.volumes[1]}:/run/proxyctl",
            ],
            "GroupAdd": [str(os.stat(socket).st_gid)],  # noqa: PTH116 - a socket
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
        }
        self.box = rig.create_container(name="proxyctl", image=IMAGE, network="host", Env=self.env, host_config=self.host_config)
        self.box.start()

    def execute(self, rig: Rig, *argv: str) -> tuple[int, str]:
        made = rig.client.exec_create(self.box.id, list(argv))
        output = rig.client.exec_start(made["Id"]).decode()
        return int(rig.client.exec_inspect(made["Id"])["ExitCode"]), output


@pytest.fixture(scope="module")
def image(rig: Rig) -> Iterator[InContainer]:
    made = InContainer(rig)
    yield made
    Box(rig.client, made.nginx, made.nginx).remove()
    made.box.remove()
    rig.client.remove_network(f"0-{made.nginx}")
    for volume in made.volumes:
        rig.client.remove_volume(volume, force=True)


def test_a_controller_in_a_container_serves_a_labelled_one(rig: Rig, image: InContainer) -> None:
    rig.run_container({"host": "image.example"}, name="app")
    try:
        until(lambda: ask(image.port, "image.example").backend == "app", 20, "an answer")
    except AssertionError as error:
        error.add_note(rig.client.logs(image.box.id).decode())
        raise


def test_it_is_not_root_and_its_health_is_known(rig: Rig, image: InContainer) -> None:
    assert image.box.inspect()["Config"]["User"] == "proxyctl"
    until(lambda: image.box.inspect()["State"]["Health"]["Status"] == "healthy", 30, "the image's HEALTHCHECK")
    status, output = image.execute(rig, "proxyctl", "status")
    assert status == 0, output
    assert "image.example" in output


@pytest.mark.parametrize(("more", "standing"), [({}, "warn"), ({"CapAdd": ["KILL"], "PidMode": "host"}, "ok")])
def test_as_compose_yaml_starts_it_it_can_end_old_workers(
    rig: Rig, image: InContainer, more: dict[str, object], standing: str
) -> None:
    box = rig.create_container(
        image=IMAGE,
        network="host",
        Env=image.env,
        host_config=image.host_config | more,
        User="root" if more else "proxyctl",
        Cmd=["doctor", "--json"],
    )
    box.start()
    rig.client.wait(box.id, timeout=30)
    said = json.loads(rig.client.logs(box.id, stderr=False))
    box.remove()
    assert [c["standing"] for c in said["checks"] if c["what"] == "docker top"] == [standing], [
        c for c in said["checks"] if "top" in c["what"]
    ]


def test_nginx_is_given_the_same_volume_and_not_the_state(rig: Rig, image: InContainer) -> None:
    mounts = rig.client.inspect_container(image.nginx)["Mounts"]
    sources = [str(mount["Source"]) for mount in mounts]
    assert any(source.endswith(f"{image.volumes[0]}/_data/nginx") for source in sources)
    assert not any(source.endswith("_data") for source in sources)


def test_it_ends_at_once_and_leaves_nginx_serving(image: InContainer) -> None:
    image.box.stop(timeout=5)
    assert image.box.inspect()["State"]["ExitCode"] == 0
    assert ask(image.port, "image.example").status == 200
