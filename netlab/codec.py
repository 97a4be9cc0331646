"""Frozen dataclasses to JSON values and back, by their type hints: how a lab's state is kept and shown.

Knows what the models use: dataclasses, unions of dataclasses (told apart by their class attribute `type`), tuples,
mappings, enums, addresses and networks, paths, `None`, and plain values. It trusts its input: netlab wrote it.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

T = TypeVar("T")
ADDRESSES = (IPv4Address, IPv6Address)
NETWORKS = (IPv4Network, IPv6Network)
PLAIN = ("str", "int", "float", "bool")


def to_json(value: Any) -> Any:
    """Return a value made of what JSON has. Addresses, networks and enums become text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        tag = {"type": value.type} if hasattr(value, "type") else {}
        return tag | {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list, frozenset, set)):
        return [to_json(entry) for entry in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


def from_json(kind: type[T], value: Any) -> T:
    """Rebuild a value of a dataclass from what `to_json` made of it."""
    reader: Any = _reader  # mypy wants hashable arguments of a cached function
    result: T = reader(kind)(value)
    return result


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """Return the function that reads values of a type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass_reader(kind)
    if origin in (Union, types.UnionType):
        return _union_reader(arguments)
    if origin is tuple:
        return _tuple_reader(arguments)
    if origin is not None and issubclass(origin, Mapping):
        item = _reader(arguments[1])
        return lambda value: {key: item(entry) for key, entry in value.items()}
    if isinstance(kind, type) and issubclass(kind, (*ADDRESSES, *NETWORKS, Enum, Path)):
        return kind
    return _unchanged


def _tuple_reader(arguments: tuple[Any, ...]) -> Callable[[Any], Any]:
    if arguments[-1] is ...:
        item = _reader(arguments[0])
        return lambda value: tuple(map(item, value))
    items = [_reader(argument) for argument in arguments]
    return lambda value: tuple(read(entry) for read, entry in zip(items, value, strict=True))


def _dataclass_reader(kind: Any) -> Callable[[Any], Any]:
    readers = {field.name: _field_reader(field.type, kind) for field in dataclasses.fields(kind)}
    return lambda value: kind(**{name: readers[name](entry) for name, entry in value.items() if name in readers})


def _field_reader(hint: Any, kind: Any) -> Callable[[Any], Any]:
    """Return the reader of a field's hint, which is text; to make a type of it takes longer than most is read in."""
    if hint in PLAIN:
        return _unchanged
    return _reader(eval(hint, vars(sys.modules[kind.__module__])) if isinstance(hint, str) else hint)


def _unchanged(value: Any) -> Any:
    return value


def _union_reader(arguments: tuple[Any, ...]) -> Callable[[Any], Any]:
    others = [argument for argument in arguments if argument is not type(None)]
    if all(argument in ADDRESSES for argument in others):
        read: Callable[[Any], Any] = ip_address
    elif all(argument in NETWORKS for argument in others):
        read = ip_network
    elif len(others) == 1:
        read = _reader(others[0])
    else:
        by_type = {argument.type: _reader(argument) for argument in others}
        return lambda value: by_type[value["type"]](value)
    return lambda value: None if value is None else read(value)
