"""The fields of the objects that people configure with, read like the items of a mapping: one by one, so that one that
cannot be read costs only itself."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """Stands for a value that could not be read."""

    error: str
    """The type of the exception."""


Fields = Iterator[tuple[Any, Any]]


def fields_of(value: Any) -> Fields | None:
    """Returns the keys and values of a mapping, or of an object with fields: a dataclass, an attrs class, a NamedTuple,
    a pydantic model, an argparse.Namespace, a SimpleNamespace, a ConfigDict, and their subclasses. None for anything
    else. A value that raises is :class:`Unreadable`; a field that was never set is None."""
    kind = type(value)
    if isinstance(value, Mapping):
        return _items(value, lambda: value)
    if isinstance(value, tuple) and isinstance(getattr(kind, "_fields", None), tuple):
        return iter(zip(kind._fields, value, strict=False))
    names = _field_names(kind)
    if names is not None:
        return _attributes(value, [*names, *_added(value)])
    namespace = getattr(sys.modules.get("argparse"), "Namespace", SimpleNamespace)
    if isinstance(value, (SimpleNamespace, namespace)):
        return iter(list(vars(value).items()))
    # Such as ml_collections.ConfigDict; a table of data has a shape.
    if callable(getattr(kind, "keys", None)) and hasattr(kind, "__getitem__") and not hasattr(kind, "shape"):
        return _items(value, value.keys)
    return None


def settings(argument: str, value: Any) -> Mapping[Any, Any] | Any:
    """Returns settings as something that :func:`fields_of` reads: the value itself, or the attributes of an object that
    has no other fields.

    :raises TypeError: it has neither; the message does not show it, since it may hold a secret.
    """
    if fields_of(value) is not None and not isinstance(value, type):
        return value
    # A class, a function and a module have attributes too, but those are no settings.
    if not callable(value) and not isinstance(value, ModuleType):
        attributes = _read(lambda: getattr(value, "__dict__", None))
        if attributes is not None:
            return attributes if isinstance(attributes, dict) else {"...": attributes}
    wanted = "a mapping, or an object whose attributes are the settings"
    raise TypeError(f"{argument}: expected {wanted}, got {type(value).__name__}")


def _field_names(kind: type) -> list[str] | None:
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    attributes = getattr(kind, "__attrs_attrs__", None)
    if attributes is not None:
        return [attribute.name for attribute in attributes]
    for name in ("__pydantic_fields__", "__fields__"):  # of its versions 2 and 1
        fields = getattr(kind, name, None)
        if isinstance(fields, Mapping) and any(base.__module__.startswith("pydantic") for base in kind.__mro__):
            return list(fields)
    return None


def _added(value: Any) -> list[str]:
    """The fields that a pydantic model has beside the declared ones."""
    more = getattr(value, "__pydantic_extra__", None)
    return list(more) if isinstance(more, Mapping) else []


def _attributes(value: Any, names: list[str]) -> Fields:
    for name in names:
        yield name, _read(lambda name=name: getattr(value, name, None))  # type: ignore[misc]


def _items(value: Any, keys: Callable[[], Iterable[Any]]) -> Fields:
    try:
        for key in keys():
            yield key, _read(lambda key=key: value[key])  # type: ignore[misc]
    except Exception as error:  # noqa: BLE001 - a mapping of the user's
        yield "...", Unreadable(type(error).__name__)


def _read(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except Exception as error:  # noqa: BLE001 - an interpolation, a missing value, a property of the user's
        return Unreadable(type(error).__name__)
