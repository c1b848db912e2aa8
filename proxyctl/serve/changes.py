"""A request's body -> a word to the controller that runs, and what will happen then, in words."""

from __future__ import annotations

import pwd
import socket
import struct
from typing import Protocol, TypeVar

import msgspec

from proxyctl import values
from proxyctl.serve import wishes
from proxyctl.values import BadValue
from proxyctl.versions import Word

T = TypeVar("T", bound=msgspec.Struct)


class Controller(Protocol):
    """controller.Controller, as much as can be changed."""

    async def change_drain(self, notice: float | None, who: str) -> None: ...
    async def say(self, service: str, word: Word) -> str: ...
    async def freeze(self, *, on: bool, who: str, why: str = "") -> None: ...
    async def release(self, host: str, who: str, why: str = "") -> str: ...


class Changes:
    """Each takes a body and who sent it. Raises BadValue, Illegal when it is not possible now, or OSError when it cannot be
    written down: nothing has changed then."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def rollout(self, body: bytes, who: str) -> str:
        wish = _read(body, wishes.RolloutWish)
        if wish.to is not None and wish.verb != "rollback":
            raise BadValue(f"{wish.verb} takes no version", "leave `to` out: it is for rollback")
        return await self._controller.say(wish.service, Word(wish.verb, wish.value, who, wish.why, wish.to))

    async def freeze(self, body: bytes, who: str) -> str:
        await self._controller.freeze(on=True, who=who, why=_read(body, wishes.FreezeWish).why)
        return "no version is rolled out until `proxyctl unfreeze`; what protects goes on"

    async def unfreeze(self, body: bytes, who: str) -> str:
        await self._controller.freeze(on=False, who=who, why=_read(body, wishes.FreezeWish).why)
        return "versions are rolled out again"

    async def release(self, body: bytes, who: str) -> str:
        wish = _read(body, wishes.ReleaseWish)
        host = values.host(wish.host)
        service = await self._controller.release(host, who, wish.why)
        return f"{host} no longer belongs to {service}; the first service that asks for it gets it"

    async def drain(self, body: bytes, who: str) -> str:
        notice = _read(body, wishes.DrainWish).notice
        await self._controller.change_drain(notice, who)
        return (
            f"/-/ready and /readyz say 503 from the next reload on; everything is served for {notice:g} s more, then the workers "
            "of nginx end with their requests"
        )

    async def undrain(self, body: bytes, who: str) -> str:
        _read(body, wishes.NoWish)
        await self._controller.change_drain(None, who)
        return "/-/ready and /readyz say 200 again"


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        fields = msgspec.structs.fields(kind)
        names = ", ".join(f"{field.name}{'' if field.required else ' (may be left out)'}" for field in fields) or "none"
        raise BadValue(f"the body is not taken: {error}", f"send a JSON object with these fields: {names}") from error


def caller(connection: socket.socket | None, peer: str | None) -> str:
    """Who asks: the user at the other end of a unix socket, else a token and an address."""
    if connection is None or connection.family != socket.AF_UNIX:
        return f"a token from {peer}"
    user = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[1]
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
