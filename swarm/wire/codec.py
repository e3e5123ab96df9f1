"""Dataclasses to msgpack and back, with every type checked on the way in.

A message travels as `[kind, field, field, …]` in field order. Nothing but the annotated types is accepted, sequences
and strings are capped, and unknown kinds are an error: a decoded message is one that this program could have made.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import msgpack

from swarm.errors import ProtocolError

M = TypeVar("M")

MAX_ITEMS = 65_536
"""Longest sequence in a message."""

_KINDS: dict[int, type] = {}
_KIND_OF: dict[type, int] = {}


def message(kind: int) -> Callable[[type[M]], type[M]]:
    """Register a dataclass as a message of the wire under a number that is never used again."""

    def register(cls: type[M]) -> type[M]:
        if kind in _KINDS:
            raise ValueError(f"message kind {kind} is taken by {_KINDS[kind].__name__}")
        _KINDS[kind] = cls
        _KIND_OF[cls] = kind
        return cls

    return register


def registered() -> dict[int, type]:
    """All message kinds, by number."""
    return dict(_KINDS)


def encode(value: object) -> bytes:
    """A registered message as msgpack bytes."""
    return typing.cast(bytes, msgpack.packb(flatten(value), use_bin_type=True))


def flatten(value: object) -> list[Any]:
    """A registered message as `[kind, fields…]`."""
    return [_KIND_OF[type(value)], *_flatten_fields(value)]


def decode(data: bytes | memoryview) -> Any:
    """The message in `data`.

    Raises:
        ProtocolError: not msgpack, an unknown kind, or fields of other types than annotated.
    """
    return restore(unpack(data))


def unpack(data: bytes | memoryview) -> Any:
    """Plain msgpack values in `data`, sizes bounded by the data's own length."""
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            use_list=True,
            strict_map_key=True,
            max_array_len=min(MAX_ITEMS, len(data)),  # an entry takes a byte at least
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"a message is not msgpack ({type(error).__name__})", _UPGRADE) from None


def restore(values: object) -> Any:
    """The message that `flatten` took apart; errors as in `decode`."""
    if not isinstance(values, list) or not values or type(values[0]) is not int:
        raise ProtocolError("a message does not start with its kind", _UPGRADE)
    cls = _KINDS.get(values[0])
    if cls is None:
        raise ProtocolError(f"a message is of the unknown kind {values[0]}", _UPGRADE)
    return _restore_fields(cls, values[1:])


_UPGRADE = "run the same version of the software everywhere"


def _flatten_fields(value: object) -> list[Any]:
    kind: Any = type(value)
    return [_flatten_value(getattr(value, name)) for name, _ in _schema(kind)]


def _flatten_value(value: object) -> Any:
    if isinstance(value, tuple):
        return [_flatten_value(entry) for entry in value]
    if dataclasses.is_dataclass(value):
        return _flatten_fields(value)
    return value


@functools.cache
def _schema(cls: Any) -> tuple[tuple[str, Any], ...]:
    hints = typing.get_type_hints(cls)
    return tuple((entry.name, hints[entry.name]) for entry in dataclasses.fields(cls))


def _restore_fields(cls: type, values: list[Any]) -> Any:
    schema = _schema(cls)
    if len(values) != len(schema):
        raise ProtocolError(f"{cls.__name__} has {len(values)} fields where {len(schema)} belong", _UPGRADE)
    arguments = {
        name: _restore_value(hint, value, f"{cls.__name__}.{name}")
        for (name, hint), value in zip(schema, values, strict=True)
    }
    try:
        return cls(**arguments)
    except ValueError as error:
        raise ProtocolError(f"{cls.__name__} cannot be ({error})", "drop that peer") from None


def _restore_value(hint: Any, value: Any, where: str) -> Any:
    if hint in (int, str, bytes, bool):
        if type(value) is hint:
            return value
    elif hint is float:
        if type(value) in (float, int):
            return float(value)
    elif dataclasses.is_dataclass(hint):
        if isinstance(value, list):
            return _restore_fields(typing.cast(type, hint), value)
    elif typing.get_origin(hint) is tuple and isinstance(value, list):
        return _restore_tuple(typing.get_args(hint), value, where)
    raise ProtocolError(f"{where} is of type {type(value).__name__}", _UPGRADE)


def _restore_tuple(entries: tuple[Any, ...], value: list[Any], where: str) -> tuple[Any, ...]:
    if len(entries) == 2 and entries[1] is Ellipsis:
        return tuple(_restore_value(entries[0], entry, where) for entry in value)
    if len(entries) != len(value):
        raise ProtocolError(f"{where} has {len(value)} entries where {len(entries)} belong", _UPGRADE)
    return tuple(_restore_value(hint, entry, where) for hint, entry in zip(entries, value, strict=True))
