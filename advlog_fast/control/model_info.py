"""Describes a model from its shapes alone: it reads no value, so it waits for no GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..exceptions import expected
from .masking import masked

MAX_LAYERS = 500
"""Rows of the layer table; the number of those left out stands beside it."""

_MAX_ERROR = 500
_MAX_LEAVES = 100_000
_MAX_DEPTH = 20
_MODULE_METHODS = ("named_parameters", "named_modules", "buffers")
_ESTIMATOR_WEIGHTS = ("coef_", "intercept_", "coefs_", "intercepts_")


def describe_model(model: Any) -> dict[str, Any]:
    """The parameters and layers of `model`, as plain JSON types.

    A torch module, wrapped (DDP, FSDP, `torch.compile`) or not, gives `class`, `total_parameters`,
    `trainable_parameters`, `buffers` (elements), `bytes` (of parameters and buffers), `dtypes` and `devices`
    (elements of parameters by each), `uninitialized_parameters` (lazy ones, whose size is not known yet),
    `layers` (name, type and own parameters; at most 500) and `layers_left_out`. A parameter that several
    layers share counts once, where it is met first. With FSDP's flat parameters the numbers are those of this
    rank's shard.

    Anything else gives `class` and, where they can be counted, `total_parameters`; an estimator with
    scikit-learn's `get_params` gives `hyperparameters` too.

    :raises TypeError: `model` is None.
    """
    if model is None:
        raise TypeError(expected("model", "a model", model))
    described: dict[str, Any] = {"class": f"{type(model).__module__}.{type(model).__qualname__}"}
    for describe in (_torch_module, _other):
        try:
            details = describe(model)
        except Exception as error:  # noqa: BLE001 - a model's methods may do anything; the run goes on
            described["error"] = f"{type(error).__name__}: {error}"[:_MAX_ERROR]
            continue
        if details is not None:
            return {**described, **details}
    return described


def _torch_module(model: Any) -> dict[str, Any] | None:
    if not all(callable(getattr(model, name, None)) for name in _MODULE_METHODS):
        return None
    total = trainable = size_bytes = uninitialized = 0
    dtypes: dict[str, int] = {}
    devices: dict[str, int] = {}
    counted: dict[int, int] = {}
    for _, parameter in model.named_parameters():
        if id(parameter) in counted:
            continue
        elements = _elements(parameter)
        counted[id(parameter)] = elements or 0
        if elements is None:
            uninitialized += 1
            continue
        total += elements
        trainable += elements if parameter.requires_grad else 0
        size_bytes += elements * int(parameter.element_size())
        dtype, device = str(parameter.dtype).removeprefix("torch."), str(parameter.device)
        dtypes[dtype] = dtypes.get(dtype, 0) + elements
        devices[device] = devices.get(device, 0) + elements
    buffers = 0
    seen: set[int] = set()
    for buffer in model.buffers():
        elements = _elements(buffer)
        if id(buffer) in seen or elements is None:
            continue
        seen.add(id(buffer))
        buffers += elements
        size_bytes += elements * int(buffer.element_size())
    layers, left_out = _layers(model, counted)
    return {
        "total_parameters": total,
        "trainable_parameters": trainable,
        "buffers": buffers,
        "bytes": size_bytes,
        "dtypes": dtypes,
        "devices": devices,
        "uninitialized_parameters": uninitialized,
        "layers": layers,
        "layers_left_out": left_out,
    }


def _layers(model: Any, counted: dict[int, int]) -> tuple[list[dict[str, Any]], int]:
    """The modules that do something: those with parameters of their own, and the leaves. Their parameters add
    up to the total."""
    layers: list[dict[str, Any]] = []
    left_out = 0
    remaining = dict(counted)
    for name, module in model.named_modules():
        own = [id(parameter) for parameter in module.parameters(recurse=False)]
        if not own and next(iter(module.children()), None) is not None:
            continue
        parameters = sum(remaining.pop(key, 0) for key in own)
        if len(layers) < MAX_LAYERS:
            layers.append({"name": name, "type": type(module).__name__, "parameters": parameters})
        else:
            left_out += 1
    return layers, left_out


def _other(model: Any) -> dict[str, Any] | None:
    details: dict[str, Any] = {}
    get_params = getattr(model, "get_params", None)
    if callable(get_params) and not isinstance(model, type):
        details["hyperparameters"] = masked(get_params(deep=False))
        weights: Iterable[Any] = [getattr(model, name, None) for name in _ESTIMATOR_WEIGHTS]
    else:
        weights = [_weights(model)]
    total = leaves = 0
    for leaf in _leaves(list(weights)):
        elements = _elements(leaf)
        if elements is not None:
            leaves += 1
            total += elements
    if leaves:
        details["total_parameters"] = total
    count: Callable[[], Any] | None = getattr(model, "count_params", None)
    if callable(count) and not isinstance(model, type):
        details["total_parameters"] = int(count())
    return details


def _weights(model: Any) -> Any:
    """Returns where a model that no library here knows keeps its arrays."""
    parameters = getattr(model, "parameters", None)
    if callable(parameters) and not isinstance(model, type):
        return parameters()
    if parameters is not None and not callable(parameters):
        return parameters
    # Not the arrays among its attributes: data and caches would be counted as parameters.
    return model if isinstance(model, (Mapping, list, tuple)) else None


def _leaves(tree: Any) -> Iterator[Any]:
    """The leaves of nested mappings, lists and iterators, each object once, cut short where there are very
    many."""
    pending: list[tuple[Any, int]] = [(tree, 0)]
    seen: set[int] = set()
    keep: list[Any] = []
    while pending and len(seen) < _MAX_LEAVES:
        node, depth = pending.pop()
        if id(node) in seen or isinstance(node, (str, bytes, type(None))):
            continue
        seen.add(id(node))
        # An id stands for its object only while that lives.
        keep.append(node)
        if isinstance(node, Mapping):
            children: Iterable[Any] = node.values()
        elif isinstance(node, (list, tuple, Iterator)):
            children = node
        else:
            yield node
            continue
        if depth < _MAX_DEPTH:
            pending.extend((child, depth + 1) for child in children)


def _elements(array: Any) -> int | None:
    """Returns how many numbers an array or tensor holds; None for a lazy parameter and for what is neither."""
    try:
        numel = getattr(array, "numel", None)
        size = numel() if callable(numel) else getattr(array, "size", None)
    except Exception:  # noqa: BLE001 - torch raises one of several for a lazy parameter
        return None
    is_array = isinstance(size, int) and hasattr(array, "shape") and hasattr(array, "dtype")
    return size if is_array else None
