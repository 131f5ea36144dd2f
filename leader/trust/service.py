"""The TrustService RPCs: protobuf in, a call of the authority or of a manager, protobuf out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, ParamSpec, TypeVar

import grpc

from leader.trust.authority import Authority
from leader.trust.bearer import Verify, none_taken
from leader.trust.callers import Caller, caller_of
from leader.trust.manager import MANAGED, Manager, identity_of
from protos import trust_pb2
from utils.errors import CheckpointError, NotReadyError, WireError
from utils.trust import contract
from utils.wire.contract import Call, Context, Method, serve
from utils.wire.status import refuse

P = ParamSpec("P")
T = TypeVar("T")
_LINES = 16  # of the audit, in one message


class TrustService:
    """How identities come to be and are managed, for callers that the guard has let through."""

    def __init__(
        self,
        authority: Authority,
        refused: Callable[[str, WireError, Caller], None] = lambda method, error, caller: None,
        verify: Verify = none_taken,
    ) -> None:
        """`refused` hears of each refusal; `verify` checks JWTs."""
        self._authority = authority
        self._refused = refused
        self._verify = verify

    def handler(self) -> grpc.GenericRpcHandler:
        """The service as a handler to add to a server."""
        calls: dict[Method[Any, Any], Call] = {
            contract.ENROL: self._enrol,
            contract.RENEW: self._renew,
            contract.WHO_AM_I: self._who_am_i,
            contract.READ_AUDIT: self._read_audit,
            **{method: partial(self._manage, call) for method, call in MANAGED.items()},
        }
        return serve(calls, self._refuse)

    async def _refuse(self, method: str, context: Context, error: WireError) -> None:
        self._refused(method, error, caller_of(context))
        await refuse(context, error)

    async def _enrol(self, request: trust_pb2.EnrolRequest, context: Context) -> trust_pb2.Credential:
        ip = caller_of(context).address
        if not request.jwt:
            return await _on_disk(self._authority.enrol, request, ip)
        return await _on_disk(self._authority.exchange, request, await self._verify(request.jwt), ip)

    async def _renew(self, request: trust_pb2.RenewRequest, context: Context) -> trust_pb2.Credential:
        claims = await self._verify(request.jwt) if request.jwt else None
        return await _on_disk(self._authority.renew, request, caller_of(context), claims)

    async def _who_am_i(self, request: trust_pb2.WhoAmIRequest, context: Context) -> trust_pb2.Identity:
        caller = caller_of(context)
        known = identity_of(self._authority.state.read(), caller.name)
        return known if known.role else trust_pb2.Identity(name=caller.name, role=caller.role)

    async def _manage(self, call: Callable[[Manager, Any], Any], request: Any, context: Context) -> Any:
        return await _on_disk(call, Manager(self._authority, caller_of(context)), request)

    async def _read_audit(self, request: trust_pb2.AuditRequest, context: Context) -> None:
        first = max(getattr(request, "from"), 1)
        path = self._authority.folder / "audit.jsonl"
        if not path.exists():
            raise NotReadyError("this leader keeps no audit")
        with path.open("rb") as file:
            lines = islice((line for line in file if line.endswith(b"\n")), first - 1, None)
            while some := [line.removesuffix(b"\n") for line in islice(lines, _LINES)]:
                await context.write(trust_pb2.AuditLines(lines=some))


async def _on_disk(change: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The answer of what waits for the disk, while other calls go on."""
    try:
        return await asyncio.to_thread(change, *args, **kwargs)
    except CheckpointError as error:
        raise NotReadyError(f"the leader can't keep this: {error}") from error
