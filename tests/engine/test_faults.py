"""What breaks beside the controller: the last good configuration goes on, and everything is as it should be when it is over."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.load import Load
from tests.relay import Relay
from tests.rig import Controller, Rig, until


@pytest.fixture
def relay(rig: Rig) -> Iterator[Relay]:
    with Relay(rig.directory / f"engine{time.monotonic_ns() % 10**6}.sock") as made:
        yield made


@pytest.fixture
def served(rig: Rig, relay: Relay) -> Iterator[Controller]:
    """A controller that speaks to the engine through the relay, with one site."""
    prefix = f"{rig.prefix}{time.monotonic_ns() % 100000}"
    controller = rig.controller({"docker": {"endpoint": relay.endpoint}}, prefix=prefix)
    add(rig, controller, "site")
    controller.wait_for("site.example")
    yield controller
    if controller.running:
        controller.stop()


def add(rig: Rig, controller: Controller, name: str) -> None:
    rig.create_container(
        name=f"{name}{time.monotonic_ns()}", other_labels={f"{controller.prefix}.host": f"{name}.example"}
    ).start()


def test_an_engine_that_goes_away_takes_no_route_with_it_and_nothing_is_missed(
    rig: Rig, relay: Relay, served: Controller
) -> None:
    with Load("site.example", served.port, new_per_second=50, keepalive_clients=5) as load:
        relay.cut()
        add(rig, served, "meanwhile")
        time.sleep(2.0)
        assert served.running
        relay.restore()
        served.wait_for("meanwhile.example", within=15)
    assert load.report.lost_of() == 0, str(load.report)


def test_an_engine_that_does_not_answer_takes_no_route_with_it(rig: Rig, relay: Relay, served: Controller) -> None:
    relay.hang()
    add(rig, served, "silent")
    time.sleep(1.0)
    assert served.ask("site.example").status == 200
    began = time.monotonic()
    served.stop()
    assert time.monotonic() - began < 1.5, "a silent engine must not hold up the end"


def test_a_hand_written_vhost_that_nginx_refuses_changes_nothing_and_is_told(rig: Rig, served: Controller) -> None:
    sites = served.directory / "state" / "nginx" / "sites"
    (sites / "own.conf").write_text("server { listen 80; server_name own.example; return 200 own; }\n")
    served.wait_for("own.example")
    (sites / "own.conf").write_text("server { listen 80; server_name own.example; retrun 200; }\n")
    assert "retrun" in served.wait_rejected("sites/own.conf")["problem"]
    add(rig, served, "after")
    served.wait_for("after.example")
    assert served.ask("own.example").body == "own"
    (sites / "own.conf").write_text("server { listen 80; server_name own.example; return 200 mended; }\n")
    until(lambda: served.ask("own.example").body == "mended", 5, "the mended vhost")


def test_a_template_of_ones_own_counts_and_a_broken_one_changes_nothing(rig: Rig, served: Controller) -> None:
    shipped = Path("templates/manifest.conf.j2").read_text(encoding="utf-8")
    folder = served.directory / "templates"
    folder.mkdir()
    (folder / "manifest.conf.j2").write_text(shipped.replace("return {{ unknown_host }}", "return 418"))
    until(lambda: served.ask("nobody.example").status == 418, 15, "the operator's template")
    (folder / "manifest.conf.j2").write_text("{{ no_such_name }}")
    until(lambda: served.records("configuration not taken over"), 10, "the error in the log")
    assert "no_such_name" in served.records("configuration not taken over")[-1]["error"]
    add(rig, served, "later")
    served.wait_for("later.example")
    assert served.ask("nobody.example").status == 418


def test_a_reload_that_nginx_refuses_after_its_test_is_put_back_and_told(rig: Rig, served: Controller) -> None:
    """`nginx -t` takes a zone with another key; the reload does not."""
    sites = served.directory / "state" / "nginx" / "sites"
    zone = "limit_req_zone ${} zone=own:1m rate=1r/s;\nserver {{ listen 80; server_name {}.example; return 200 {}; }}\n"
    (sites / "zone.conf").write_text(zone.format("binary_remote_addr", "zone", "one"))
    served.wait_for("zone.example")
    (sites / "zone.conf").write_text(zone.format("request_uri", "zone", "two"))
    until(lambda: served.records("restored"), 15, "the reload to be put back")
    assert "limit_req" in served.records("restored")[0]["error"]
    assert "limit_req" in served.wait_rejected("sites/zone.conf")["problem"]
    add(rig, served, "beside")
    served.wait_for("beside.example")
    assert served.ask("zone.example").body == "one"
    assert served.ask("site.example").status == 200


def test_a_port_that_is_taken_where_nginx_listens_is_put_back_and_told_and_who_took_it_is_no_target(
    rig: Rig, served: Controller
) -> None:
    """`nginx -t` overlooks a port that is taken; the reload does not. Who took it lives in nginx's own network."""
    taker = rig.create_container(
        name=f"taker{time.monotonic_ns()}",
        args=["--port", "8099"],
        network=f"container:{served.nginx}",
        other_labels={f"{served.prefix}.host": "taker.example", f"{served.prefix}.port": "8099"},
    )
    taker.start()
    served.wait_rejected(taker.name)

    def problem() -> str:
        return str(json.loads(served.ask_api("/api/v1/rejections").body)["rejections"])

    until(lambda: "the network of nginx itself" in problem(), 10, "the reason; before nginx is in the list it is another one")
    sites = served.directory / "state" / "nginx" / "sites"
    (sites / "port.conf").write_text("server { listen 8099; server_name port.example; return 200 port; }\n")
    until(lambda: served.records("restored"), 15, "the reload to be put back")
    assert "8099" in served.records("restored")[0]["error"]
    assert "8099" in served.wait_rejected("sites/port.conf")["problem"]
    add(rig, served, "beside")
    served.wait_for("beside.example")
    assert served.ask("site.example").status == 200
    taker.remove()
    (sites / "port.conf").write_text("server { listen 8099; server_name port.example; return 200 free; }\n")
    until(lambda: json.loads(served.ask_api("/api/v1/rejections").body)["rejections"] == [], 15, "the file to be taken")


def test_a_full_partition_changes_nothing_and_is_over_when_there_is_room(rig: Rig) -> None:
    controller = rig.controller(start=False, prefix=f"{rig.prefix}full")
    partition = controller.directory / "state"
    partition.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(partition)], check=True)
    try:
        controller.start()
        add(rig, controller, "before")
        controller.wait_for("before.example")
        filler = partition / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        add(rig, controller, "during")
        until(lambda: controller.records("failed"), 10, "the error in the log")
        assert "No space left" in controller.records("failed")[0]["error"]
        assert controller.ask("before.example").status == 200
        filler.unlink()
        controller.wait_for("during.example", within=40)
    finally:
        controller.stop()
        rig.client.remove_container(controller.nginx, force=True)
        subprocess.run(["umount", str(partition)], check=False)


def test_settings_are_taken_over_without_a_restart_and_bad_ones_are_told(served: Controller) -> None:
    good = served.config.read_text(encoding="utf-8")
    served.config.write_text(good.replace("[discovery]", '[discovery]\ndefault_hots = "x"'))
    until(lambda: served.records("configuration not taken over"), 5, "the error in the log")
    assert "default_host" in served.records("configuration not taken over")[0]["error"]
    assert served.ask("site.example").status == 200
    served.config.write_text(good.replace("[nginx]", "[nginx]\nworker_processes = 3"))
    conf = served.directory / "state" / "nginx" / "nginx.conf"
    until(lambda: "worker_processes 3;" in conf.read_text(encoding="utf-8"), 10, "the new setting to be published")
    assert served.ask("site.example").status == 200


def test_a_vhost_that_nginx_refuses_is_put_aside_and_everybody_else_goes_live_in_the_same_cycle(
    rig: Rig, served: Controller
) -> None:
    """An operator's template makes what is rendered for one host unacceptable; labels alone cannot."""
    shipped = Path("templates/server.conf.j2").read_text(encoding="utf-8")
    folder = served.directory / "templates"
    folder.mkdir()
    wrong = '    server_name {{ name }};\n{%- if name == "wrong.example" %}\n    retrun;\n{%- endif %}'
    (folder / "server.conf.j2").write_text(shipped.replace("    server_name {{ name }};", wrong))
    until(lambda: served.records("configuration read"), 15, "the operator's template")
    for name in ("wrong", "right"):
        add(rig, served, name)
    served.wait_for("right.example")
    told = next(r for r in served.records("rejected") if "retrun" in r["problem"])
    assert "wrong" in told["container"]
    assert served.ask("wrong.example").status == 404
    (folder / "server.conf.j2").write_text(shipped)
    served.wait_for("wrong.example")
