"""examples/cgit: cgit behind Debian's nginx, all of it systemd units on a machine with an engine and a registry. Each test is one
of its steps, after the one before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from examples.cgit import story
from tests.rig import Rig


@pytest.fixture(scope="module")
def machine(rig: Rig) -> Iterator[story.Machine]:
    made = story.Machine(rig)
    try:
        yield made
    finally:
        print(made.sh("journalctl --no-pager --output short-precise --lines 400 | grep --invert-match proxyctl-load; docker ps"))


@pytest.fixture(scope="module")
def digests(machine: story.Machine) -> dict[str, str]:
    return dict(story.set_up(machine))


def test_what_the_registry_gives_is_what_was_built(rig: Rig, machine: story.Machine, digests: dict[str, str]) -> None:
    for image in digests:
        built = cast("Any", rig.client).inspect_image(f"proxyctl-testbed/{image}")["Id"]
        assert machine.run("docker", "image", "inspect", "--format", "{{.Id}}", f"{story.REGISTRY}/{image}").strip() == built


@pytest.mark.usefixtures("digests")
def test_a_repository_is_listed_and_cloned(machine: story.Machine) -> None:
    done = story.list_and_clone(machine)
    assert done.listed
    assert done.redirect == "301 /git/"
    assert done.commits == story.COMMITS
    assert done.by_hand == story.BY_HAND, "a vhost that was there before"


@pytest.mark.usefixtures("digests")
def test_cgit_writes_nothing_but_temporary_files_and_nginx_no_vhost(machine: story.Machine) -> None:
    for container, path in (("cgit-v1", "/srv/git/x"), ("cgit-v1", "/etc/x"), ("nginx", "/etc/nginx/sites-enabled/x")):
        said = machine.run("docker", "exec", "--user", "root", container, "sh", "-c", f"touch {path} 2>&1 || true")
        assert said.strip().endswith("Read-only file system"), (container, path)
    machine.run("docker", "exec", "cgit-v1", "touch", "/tmp/x")


@pytest.mark.usefixtures("digests")
def test_a_new_version_takes_over_and_no_page_and_no_clone_is_lost(machine: story.Machine) -> None:
    done = story.swap(machine)
    assert (done.pages.losses, done.failures) == ((), ())
    assert done.across > 0
    assert (done.before, done.late) == ("v1", False)
    assert done.pages.answers.keys() == {"cgit-v1", "cgit-v2"}
    assert all("closed" in loss.error for loss in done.kept.losses), "what nginx before 1.27.4 does to kept connections"


@pytest.mark.usefixtures("digests")
def test_nginx_alone_serves_the_last_good_state(machine: story.Machine) -> None:
    assert story.nginx_alone(machine).back_after < 15


@pytest.mark.usefixtures("digests")
def test_after_a_power_cut_no_site_answers_for_another_once_proxyctl_has_published(machine: story.Machine) -> None:
    done = story.power_cut(machine)
    assert done.after["cgit-v2"] == done.before["wiki"]
    assert done.wrong_before > 0, "else it shows nothing"
    assert done.wrong_after == 0
    assert done.right > 0


@pytest.mark.usefixtures("digests")
def test_a_reboot_waits_for_the_balancer_and_for_what_is_under_way(machine: story.Machine) -> None:
    done = story.reboot(machine)
    assert (done.pages.losses, done.clone) == ((), ""), done
    assert done.told_after < done.clone_after < done.down_after
