"""Values as text and back, for plain data: numbers, strings, bytes, None; lists, tuples, sets and dicts of them.

What a program returns crosses from its process to the judge in this form. The exact built-in type is rebuilt on the
other side, so a subclass with an `__eq__` of its own arrives as the plain value it holds, and nothing that is decoded
can run code (as it could with pickle) or crash the decoder (as with marshal).
"""

from __future__ import annotations

import json
from typing import Any

_SMALL = 1 << 63
_SEQUENCES: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


class NotPlain(ValueError):
    """The value, or the text, is not plain data."""


def encode(value: Any) -> str:
    """One line of text for a value.

    Raises:
        NotPlain: It holds something that is not plain data, or holds itself.
    """
    try:
        return json.dumps(_node(value))
    except RecursionError:
        raise NotPlain("nested too deeply") from None


def _node(value: Any) -> Any:
    # Methods of the built-in types, never of the value's own class, which the program may have written.
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        number = int.__add__(value, 0)
        return number if -_SMALL < number < _SMALL else ["int", hex(number)]
    if issubclass(kind, float):
        return ["float", float.hex(value)]
    if issubclass(kind, complex):
        return ["complex", float.hex(value.real), float.hex(value.imag)]
    if issubclass(kind, dict):
        return ["dict", [[_node(key), _node(item)] for key, item in dict.items(value)]]
    for name, sequence in _SEQUENCES.items():
        if issubclass(kind, sequence):
            return [name, [_node(item) for item in sequence.__iter__(value)]]  # type: ignore[attr-defined]
    for name, octets in (("bytes", bytes), ("bytearray", bytearray)):
        if issubclass(kind, octets):
            return [name, octets.hex(value)]
    raise NotPlain(f"a {kind.__name__} is not plain data")


def decode(text: str, most_hashed: int | None = None) -> Any:
    """The value that `encode` wrote down.

    Args:
        text: Anything at all.
        most_hashed: The most entries a set or dict may have: keys that collide on purpose make building one quadratic.

    Raises:
        NotPlain: The text is nothing that `encode` writes, or holds a larger set or dict.
    """
    return rebuild(parse(text), most_hashed)


def parse(text: str) -> Any:
    """The JSON of a line that holds what `encode` writes, among lists and strings; NotPlain if it is none."""
    try:
        return _DECODER.decode(text)
    except _NOT_JSON as error:
        raise _not_plain(error) from None


def rebuild(node: Any, most_hashed: int | None = None) -> Any:
    """The value that a part of what `parse` returned stands for; see `decode`."""
    try:
        return _value(node, most_hashed)
    except _NOT_JSON as error:
        raise _not_plain(error) from None


_NOT_JSON = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, MemoryError)


def _not_plain(error: BaseException) -> NotPlain:
    return error if isinstance(error, NotPlain) else NotPlain(f"not plain data: {type(error).__name__}")


def _small_int(digits: str) -> int:
    if len(digits) > 20:
        raise NotPlain("a long number not in hexadecimal")
    return int(digits)


def _refuse(text: str) -> Any:
    raise NotPlain(f"an unmarked {text[:20]}")


_DECODER = json.JSONDecoder(parse_int=_small_int, parse_float=_refuse, parse_constant=_refuse)


def _value(node: Any, most_hashed: int | None) -> Any:
    if not isinstance(node, list):
        if isinstance(node, dict):
            raise NotPlain("a bare object")
        return node
    tag, content = node[0], node[1]
    if tag == "int":
        return int(content, 16)
    if tag == "float":
        return float.fromhex(content)
    if tag == "complex":
        return complex(float.fromhex(content), float.fromhex(node[2]))
    if tag in ("bytes", "bytearray"):
        return (bytes if tag == "bytes" else bytearray).fromhex(content)
    if tag in ("set", "frozenset", "dict") and most_hashed is not None and len(content) > most_hashed:
        raise NotPlain(f"a {tag} of {len(content)} entries")
    if tag == "dict":
        return {_value(key, most_hashed): _value(item, most_hashed) for key, item in content}
    return _SEQUENCES[tag](_value(item, most_hashed) for item in content)
