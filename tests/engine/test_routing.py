"""From a label to an answered request, on a real engine with a real nginx."""

from __future__ import annotations

import time

from tests.rig import Controller, Rig, ask


def test_a_labelled_container_is_served_by_name(rig: Rig, controller: Controller) -> None:
    rig.run_container({"host": "hello.example"}, name="hello")
    controller.wait_for("hello.example", backend="hello")
    assert controller.ask("HELLO.example").status == 200
    assert controller.ask("other.example").status == 404


def test_a_known_host_without_a_living_target_answers_503_until_the_container_is_back(rig: Rig, controller: Controller) -> None:
    box = rig.run_container({"host": "stops.example"}, name="stops")
    controller.wait_for("stops.example")
    box.stop()
    gone = controller.wait_for("stops.example", 503)
    assert "retry-after" in gone.headers
    assert "stops" not in gone.body
    box.start()
    controller.wait_for("stops.example", backend="stops")


def test_a_removed_container_leaves_503_and_not_404(rig: Rig, controller: Controller) -> None:
    box = rig.run_container({"host": "removed.example"})
    controller.wait_for("removed.example")
    box.remove()
    controller.wait_for("removed.example", 503, steady=1.0)


def test_replicas_share_the_traffic_and_one_that_stops_is_left_before_its_process_ends(rig: Rig, controller: Controller) -> None:
    labels = {"host": "twins.example", "service": "twins"}
    one = rig.run_container(labels, name="one", args=["--on-term", "drain:3s"])
    rig.run_container(labels, name="two")
    controller.wait_for("twins.example")
    seen = {controller.ask("twins.example").backend for _ in range(40)}
    assert seen == {"one", "two"}
    one.kill("TERM")
    controller.wait_for("twins.example", backend="two", steady=0.5, within=2.0)
    assert one.inspect()["State"]["Running"], "the target must go out at the signal, not at the death"


def test_path_prefixes_go_to_their_own_containers(rig: Rig, controller: Controller) -> None:
    rig.run_container({"host": "paths.example"}, name="root")
    rig.run_container({"host": "paths.example", "path": "/git"}, name="git")
    rig.run_container({"host": "paths.example", "path": "/strip", "strip-path": "true"}, name="strip")
    controller.wait_for("paths.example", path="/git", backend="git")
    controller.wait_for("paths.example", path="/strip", backend="strip")
    controller.wait_for("paths.example", backend="root")
    assert controller.ask("paths.example", "/gitfoo").backend == "root"
    assert controller.ask("paths.example", "/git/headers").status == 200
    stripped = controller.ask("paths.example", "/strip/headers")
    assert stripped.body.startswith("GET /headers ")
    assert "x-forwarded-prefix: /strip" in stripped.body.lower()


def test_several_routes_of_one_container_and_wildcards(rig: Rig, controller: Controller) -> None:
    rig.run_container(
        {"routes.web.host": "*.wild.example", "routes.admin.host": "admin.example", "routes.admin.port": "8080"},
        name="multi",
        image="proxyctl-testbed/backend:ports",
        args=["--port", "80", "--port", "8080"],
    )
    controller.wait_for("any.wild.example", backend="multi")
    controller.wait_for("admin.example", backend="multi")
    assert controller.ask("any.wild.example").headers["x-backend-port"] == "80"
    assert controller.ask("admin.example").headers["x-backend-port"] == "8080"
    assert controller.ask("wild.example").status == 404


def test_a_wrong_label_is_told_and_harms_nobody_else(rig: Rig, controller: Controller) -> None:
    rig.run_container({"host": "good.example"}, name="good")
    rig.run_container({"host": "typo.example", "pathh": "/x"}, name="typo")
    controller.wait_for("good.example", backend="good")
    told = controller.wait_rejected("typo")
    assert told["label"] == f"{rig.prefix}.pathh"
    assert f"{rig.prefix}.path?" in told["hint"]
    assert controller.ask("typo.example").status == 404


def test_a_host_that_is_taken_stays_with_its_owner(rig: Rig, controller: Controller) -> None:
    rig.run_container({"host": "mine.example"}, name="owner")
    controller.wait_for("mine.example", backend="owner")
    rig.run_container({"host": "mine.example"}, name="challenger")
    assert "owner" in controller.wait_rejected("challenger")["problem"]
    assert {controller.ask("mine.example").backend for _ in range(20)} == {"owner"}


def test_an_unhealthy_target_leaves_and_the_last_living_one_stays(rig: Rig, controller: Controller) -> None:
    labels = {"host": "sick.example", "service": "sick", "health.path": "/health", "health.fall": "2"}
    one = rig.run_container(labels, name="sick1")
    two = rig.run_container(labels, name="sick2")
    controller.wait_for("sick.example")
    one.tell("/set?health=503")
    controller.wait_for("sick.example", backend="sick2", steady=0.5)
    two.tell("/set?health=503")
    time.sleep(2.5)
    assert controller.ask("sick.example").status == 200, "fail open: something alive goes on serving"
    one.tell("/set?health=200")
    controller.wait_for("sick.example", backend="sick1", steady=0.5)


def test_dockers_own_healthcheck_decides_when_the_image_has_one(rig: Rig, controller: Controller) -> None:
    box = rig.run_container({"host": "checked.example"}, name="checked", image="proxyctl-testbed/backend:health")
    controller.wait_for("checked.example", backend="checked", within=15)
    assert box.inspect()["State"]["Health"]["Status"] == "healthy"


def test_a_container_that_never_gets_healthy_is_not_routed_and_becomes_503(rig: Rig, controller: Controller) -> None:
    rig.run_container({"host": "never.example", "health.path": "/status/500"}, name="never")
    controller.wait_for("never.example", 503, within=8)


def test_an_address_that_vanishes_is_left_within_half_a_second(rig: Rig, controller: Controller) -> None:
    labels = {"host": "vanish.example", "service": "vanish"}
    one = rig.run_container(labels, name="v1")
    rig.run_container(labels, name="v2")
    controller.wait_for("vanish.example")
    one.kill()
    slowest = 0.0
    for _ in range(30):
        began = time.monotonic()
        assert ask(controller.port, "vanish.example").status == 200
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 0.6
