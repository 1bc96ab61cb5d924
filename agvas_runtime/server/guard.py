"""What stands between the network and every method, health and reflection included.

A call is counted and named, its caller is asked who it is and what it may do, and only then its message is received,
and decoded, in the handler's own thread. Whatever a handler raises becomes a status with one line of text. What a
message means is the handlers' business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter
from types import MappingProxyType, TracebackType
from typing import Any

import grpc

from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.server.access import Access, Buckets, Principal
from agvas_runtime.server.callers import Caller, Denials, Unauthenticated, presented, request_id
from agvas_runtime.server.open_calls import GIVE_S, MOST_SILENT, TAKE_S, OpenCall, OpenCalls, Silent
from agvas_runtime.server.statuses import Code, Denied, NoSuchMethod
from agvas_runtime.server.statuses import TooMuch as TooMuch
from agvas_runtime.server.statuses import status_of as status_of

INSPECT = "/agvas.v1.Inspection/Inspect"
"""Here a message that cannot be decoded is a frame's failure, not the call's."""
PATIENT = (INSPECT, "/agvas.v1.Inspection/Scan", "/inference.GRPCInferenceService/ModelStreamInfer")
"""Streams that, once open, may be silent as long as they like: a camera's."""
UNKNOWN = "unknown"
"""Stands for every method that the server does not have: callers choose their names."""
INSPECT_SERVICES = (
    "/agvas.v1.Inspection/",
    "/inference.GRPCInferenceService/",
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1alpha.ServerReflection/",
    "/grpc.reflection.v1.ServerReflection/",
)
"""What the right to inspect is good for; everything else needs admin."""
ASIDE = {"/grpc.health.v1.Health/": (40, 4), "/grpc.reflection.": (4, 1), "/agvas.v1.Admin/": (8, 2)}
"""Services with threads of their own, at most so many: nobody who holds all the others makes the server look dead, or
keeps its operator out. The second number is that of calls that `Silent` leaves."""

UNBOUND = ("/grpc.health.v1.Health/", "/agvas.v1.Admin/")
"""Their calls do not count for the rate: frames that come too fast do not make the server look dead either."""


@dataclass(frozen=True)
class Undecodable:
    """Stands in a stream of requests for a message that could not be decoded."""

    reason: str
    """One line."""


@dataclass(frozen=True)
class CallEnd:
    """How a call ended."""

    method: str
    """As in "/agvas.v1.Inspection/Segment", or UNKNOWN."""
    code: str
    """Name of its status."""
    reason: str
    """Text of its status."""
    seconds: float
    caller: Caller


def caller(context: grpc.ServicerContext) -> Caller:
    """Who calls; in any thread, for as long as there is the context."""
    found: Caller = getattr(context, "agvas_caller", None) or Caller("", "", context.peer())
    return found


class Guard(grpc.ServerInterceptor):  # type: ignore[misc]
    """Guards every method of a server; give it as the only interceptor, and `close` it after the server has stopped.

    Args:
        access: who may do what; where None, `Presented.anonymous` says it.
        rate_per_s: calls that a principal may make from one address, twice as many at once; any number where None.
        decoders: of methods, by their names, whose messages are not decoded as gRPC's handlers would.
        on_end: told of the end of every call.
        most_open: calls that may be open at a time, those included whose reply nobody has taken yet.
        most_silent: see `Silent`; of the server's own threads, of which there have to be more.
        give_s, take_s: see `OpenCalls`.
        log: where denials and what nobody foresaw are told. Never what a caller sent.
    """

    def __init__(
        self,
        access: Access | None = None,
        *,
        rate_per_s: float | None = None,
        most_open: int = 512,
        most_silent: int = MOST_SILENT,
        decoders: Mapping[str, Callable[[bytes], Any]] = MappingProxyType({}),
        on_end: Callable[[CallEnd], None] = lambda end: None,
        give_s: float = GIVE_S,
        take_s: float = TAKE_S,
        log: logging.Logger = logging.getLogger("agvas.guard"),
    ) -> None:
        self.access, self.decoders, self.on_end, self.log = access, decoders, on_end, log
        self.buckets = Buckets(rate_per_s) if rate_per_s else None
        self.rate_per_s, self.most_open = rate_per_s, most_open
        self.denials = Denials(log)
        self._pools = {prefix: ThreadPoolExecutor(count, "aside") for prefix, (count, _) in ASIDE.items()}
        self._silent = Silent(most_silent)
        self._silent_aside = {prefix: Silent(most) for prefix, (_, most) in ASIDE.items()}
        self.open = OpenCalls([self._silent, *self._silent_aside.values()], give_s, take_s)

    def close(self) -> None:
        """Free its threads."""
        self.open.close()
        for pool in self._pools.values():
            pool.shutdown(wait=False)

    def silent(self, method: str) -> Silent:
        """The calls whose messages are waited for beside one of this method."""
        return next((calls for prefix, calls in self._silent_aside.items() if method.startswith(prefix)), self._silent)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The handler behind the guard. It runs in gRPC's one thread, so it does nothing else."""
        method, handler = handler_call_details.method, continuation(handler_call_details)
        if handler is None:  # refused as such only to those who may ask
            method, handler = UNKNOWN, grpc.unary_unary_rpc_method_handler(None)
        serve = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        # As a stream of bytes every request waits, unreceived and undecoded, until somebody asks for it.
        def one(messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            with _Call(self, method, handler, context) as call:
                return serve(call.argument(messages), context)

        def many(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            with _Call(self, method, handler, context) as call:
                yield from call.taken(serve(call.argument(messages), context))

        guarded: Any = many if handler.response_streaming else one
        for prefix, pool in self._pools.items():
            if method.startswith(prefix):
                guarded.experimental_thread_pool = pool
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(guarded, None, handler.response_serializer)


class _Call:
    """One call: a context manager in which its handler runs."""

    def __init__(
        self, guard: Guard, method: str, handler: grpc.RpcMethodHandler, context: grpc.ServicerContext
    ) -> None:
        self._guard, self._method, self._handler, self._context = guard, method, handler, context
        self._began = perf_counter()
        self._failure: Exception | None = None
        """What the caller did wrong within a stream: how the call ends, even if the handler takes it lightly."""

    def __enter__(self) -> _Call:
        context, guard = self._context, self._guard
        metadata = context.invocation_metadata() or ()
        self._open: OpenCall = guard.open.add(context)
        self._peer = context.peer()
        self._known_as("", request_id(metadata))
        try:
            known_by = (("x-request-id", self._caller.request_id),)
            if self._handler.response_streaming:
                context.send_initial_metadata(known_by)
            else:  # goes with the reply; alone it would be a packet, and two threads' work, more
                context.set_trailing_metadata(known_by)
            self._presented = presented(context, metadata)
            self._principals = guard.access.current() if guard.access else None
            principal = self._identify()
            self._known_as(principal.name, self._caller.request_id)
            self._bound(principal)
            self._permit(principal)
        except Exception as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        error = self._failure or error
        self._open.replied()
        code, text = self._outcome(error)
        try:
            if error is not None and not isinstance(error, GeneratorExit) and not self._aborted(error):
                self._context.abort(code, text)
        finally:
            self._tell(code, text)

    def argument(self, messages: Iterator[bytes]) -> Any:
        """What the handler gets: its message, or the iterator of its messages."""
        if self._handler.request_streaming:
            return self._messages(messages)
        with self._open.awaiting_message(self._guard.silent(self._method)):
            data = next(messages, None)
        if data is None:
            raise InputError(f"message: found none, expected one {self._type()}")
        return self._decoded(data)

    def taken(self, replies: Iterable[Any]) -> Iterator[Any]:
        """Pass on replies, as long as the caller takes them."""
        try:
            for reply in replies:
                with self._open.awaiting_taker():
                    yield reply
        finally:
            if close := getattr(replies, "close", None):
                close()

    def _messages(self, messages: Iterator[bytes]) -> Iterator[Any]:
        """The messages of a stream. Once it is open a camera may be silent as long as it likes, nobody else."""
        patient, silent = False, self._guard.silent(self._method)
        try:
            while True:
                with nullcontext() if patient else self._open.awaiting_message(silent):
                    data = next(messages, None)
                if data is None:
                    return
                self._still_permitted()
                yield self._message(data)
                patient = self._method in PATIENT
        except (InputError, Unauthenticated, Denied) as error:
            self._failure = error
            raise

    def _message(self, data: bytes) -> Any:
        if self._method != INSPECT:
            return self._decoded(data)
        try:
            return self._decoded(data)
        except InputError as error:
            return Undecodable(str(error))

    def _decoded(self, data: bytes) -> Any:
        decode = self._guard.decoders.get(self._method, self._handler.request_deserializer)
        if decode is None:
            return data
        try:
            return decode(data)
        except (MemoryError, InputError):
            raise
        except Exception:
            found = f"{len(data)} bytes that are no {self._type()}"
            raise InputError(f"message: found {found}, expected its fields in protobuf's encoding") from None

    def _type(self) -> str:
        owner = getattr(self._handler.request_deserializer, "__self__", None)
        return getattr(owner, "__name__", "message of this method")

    def _known_as(self, name: str, id: str) -> None:
        self._caller = self._context.agvas_caller = Caller(name, id, self._peer)

    def _identify(self) -> Principal:
        if self._principals is None:
            return self._presented.anonymous(self._caller.host)
        return self._presented.identify(self._principals)

    def _bound(self, principal: Principal) -> None:
        """Raise TooMuch for one call too many."""
        guard = self._guard
        if len(guard.open) > guard.most_open:
            raise TooMuch(f"calls: found {guard.most_open} open ones, expected fewer; try again later")
        if guard.buckets is None or self._method.startswith(UNBOUND):
            return
        bucket = guard.buckets.of((principal.name, self._caller.host))
        if not bucket.take():
            text = f"calls: found more than {guard.rate_per_s:g} a second, expected at most that"
            raise TooMuch(f"{text}; the next one in {bucket.wait_s():.3g} s")

    def _permit(self, principal: Principal) -> None:
        if self._method == UNKNOWN:
            raise NoSuchMethod("there is no such method")
        right = "inspect" if self._method.startswith(INSPECT_SERVICES) else "admin"
        if right not in principal.rights:
            raise Denied(f"{principal.name or 'the caller'} has no right {right!r}, which {self._method} needs")

    def _still_permitted(self) -> None:
        """Take the rights of a running stream away when the access file does."""
        principals = self._guard.access.current() if self._guard.access else None
        if principals is not self._principals:
            self._principals = principals
            self._permit(self._identify())

    def _outcome(self, error: BaseException | None) -> tuple[grpc.StatusCode, str]:
        """How it ends. What nobody foresaw is logged."""
        if error is None or self._aborted(error):
            code = self._context.code()
            return Code.OK if code is None else code, _text(self._context.details())
        if isinstance(error, GeneratorExit):
            return Code.CANCELLED, "the caller went away"
        code, text = status_of(error)
        if code is Code.INTERNAL and not isinstance(error, EngineError):
            extra = {"request_id": self._caller.request_id}
            self._guard.log.error("%s failed", self._method, exc_info=error, extra=extra)
        return code, text

    def _aborted(self, error: BaseException) -> bool:
        """Whether the handler called `context.abort`, which raises an exception of no type of its own."""
        return type(error) is Exception and not error.args and self._context.code() is not None

    def _tell(self, code: grpc.StatusCode, text: str) -> None:
        if code in (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED):
            self._guard.denials.tell(self._caller, self._method, code.name)
        end = CallEnd(self._method, code.name, text, perf_counter() - self._began, self._caller)
        try:
            self._guard.on_end(end)
        except Exception:
            self._guard.log.exception("the end of a call could not be told")


def _text(details: bytes | str | None) -> str:
    return details.decode(errors="replace") if isinstance(details, bytes) else details or ""
