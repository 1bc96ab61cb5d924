"""Descriptors in several pools as reflection asks for them: the protocol's types are in a pool of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from google.protobuf import descriptor_pool

from agvas_runtime.proto.inference import open_inference_pb2 as oi

Found = TypeVar("Found")


class Pools:
    """Asks one pool after the other; raises KeyError where none knows."""

    def __init__(self) -> None:
        self._pools = (oi.DESCRIPTOR.pool, descriptor_pool.Default())  # others may have put its names into the latter

    def FindFileByName(self, name: str) -> Any:
        """As of a DescriptorPool, as all methods here."""
        return self._first(lambda pool: pool.FindFileByName(name))

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        """The file of a service or a type."""
        return self._first(lambda pool: pool.FindFileContainingSymbol(symbol))

    def FindMessageTypeByName(self, name: str) -> Any:
        """A type."""
        return self._first(lambda pool: pool.FindMessageTypeByName(name))

    def FindExtensionByNumber(self, message: Any, number: int) -> Any:
        """An extension of a type."""
        return message.file.pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Any) -> Iterable[Any]:
        """All extensions of a type."""
        return message.file.pool.FindAllExtensions(message)  # type: ignore[no-any-return]

    def _first(self, find: Callable[[Any], Found]) -> Found:
        for pool in self._pools[:-1]:
            try:
                return find(pool)
            except KeyError:
                pass
        return find(self._pools[-1])
