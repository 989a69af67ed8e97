"""Tensors and numbers in a pickle that unpickle.Reader has read: built from their bytes, every size checked first."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmd2cli.errors import UserError
from dmd2cli.unpickle import Name, Reader, Recorded

_TENSOR, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_STORAGE = "torch.storage._load_from_bytes"
_CORES = ("numpy.core", "numpy._core")

DTYPES = {
    "torch.FloatStorage": torch.float32, "torch.DoubleStorage": torch.float64, "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16, "torch.LongStorage": torch.int64, "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16, "torch.CharStorage": torch.int8, "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}  # fmt: skip

NAMES = frozenset(
    {_TENSOR, _PARAMETER, _STORAGE, "torch.Size", "torch.device", "numpy.dtype", "numpy.ndarray"}
    | {f"{core}.{name}" for core in _CORES for name in ("multiarray.scalar", "multiarray._reconstruct")}
    | {f"{core}.numeric._frombuffer" for core in _CORES}
    | {str(dtype) for dtype in DTYPES.values()}
)
"""What a pickle of tensors, numbers and arrays mentions. Arrays stay recorded: no published network has one."""

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Misuse(ValueError):
    """Recorded arguments that torch or numpy did not write."""


def is_tensor(value: Any) -> bool:
    """Whether a value of a read pickle stands for a tensor or a parameter."""
    return isinstance(value, Recorded) and value.name in (_TENSOR, _PARAMETER)


def shape(value: Any, where: str) -> tuple[int, ...]:
    """The shape of what `tensor` would build. Raises UserError, naming `where`, if it is none."""
    with _misused(where):
        return _parts(value)[2]


def tensor(value: Any, where: str) -> Tensor:
    """The tensor that a Recorded stands for, on the CPU, contiguous, with memory of its own.

    Raises UserError, naming `where`, for a tensor that claims more than its data, or is none.
    """
    with _misused(where):
        storage, offset, size, stride = _parts(value)
        flat, count = _storage(storage, where), math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if count == 0:
            return flat.new_empty(size)
        if count > flat.numel() or last >= flat.numel():
            raise Misuse("a tensor larger than its data")
        return flat.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)


@contextmanager
def _misused(where: str) -> Iterator[None]:
    try:
        yield
    except Misuse as err:
        raise UserError(f"{where}: holds {err}; damaged or made up; get it from its publisher again") from None


def _parts(value: Any) -> tuple[Any, int, tuple[int, ...], tuple[int, ...]]:
    """(storage, offset, size, stride) of a recorded tensor or parameter."""
    inner = value.args[0] if _is(value, _PARAMETER) and value.args else value
    if not _is(inner, _TENSOR) or len(inner.args) < 4:
        raise Misuse("a tensor that is none")
    storage, offset, size, stride = inner.args[:4]
    if len(_sizes(size)) != len(_sizes(stride)) or len(_sizes((offset,))) != 1:
        raise Misuse("a tensor with more sizes than strides")
    return storage, offset, size, stride


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > 8 or any(type(n) is not int or not 0 <= n < 2**48 for n in value):
        raise Misuse("sizes that are none")
    return value


def _storage(value: Any, where: str) -> Tensor:
    """The numbers (n,) of a storage: the bytes of a file of torch.save of before it wrote zips, read step by step."""
    if not _is(value, _STORAGE) or len(value.args) != 1 or not isinstance(value.args[0], bytes):
        raise Misuse("a storage that is none")
    stream = io.BytesIO(value.args[0])
    reader = Reader(where, DTYPES, persistent=True)
    if reader.read(stream) != _MAGIC or reader.read(stream) != _PROTOCOL:
        raise Misuse("a storage that torch did not write")
    system, reference, keys = (reader.read(stream) for _ in range(3))
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Misuse("a storage of another byte order")
    dtype, key, count = _reference(reference)
    head, data = stream.read(8), stream.read()
    if keys != [key] or int.from_bytes(head, "little") != count or len(data) != count * dtype.itemsize:
        raise Misuse("a storage of another length than it says")
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _reference(value: Any) -> tuple[torch.dtype, str, int]:
    """(dtype, key, count) of ("storage", class, key, device, count, None), as torch writes it."""
    match value:
        case Recorded("persistent", ("storage", Name(name), str(key), str(), int(count), None)) if count >= 0:
            return DTYPES[name], key, count
    raise Misuse("a storage of an unknown class")


def plain(value: Any) -> Any:
    """Numbers, texts and containers of them as JSON has them; numpy's numbers become Python's.

    Raises Misuse for anything else, and for nesting deeper than 8.
    """
    return _plain(value, 8)


def _plain(value: Any, depth: int) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if depth and type(value) in (list, tuple):
        return [_plain(item, depth - 1) for item in value]
    if depth and type(value) is dict:
        return {str(name): _plain(item, depth - 1) for name, item in value.items()}
    if isinstance(value, Recorded) and value.name in {f"{core}.multiarray.scalar" for core in _CORES}:
        return _number(*value.args)
    raise Misuse("a value that is neither number nor text")


def _number(dtype: Any = None, data: Any = None, *_: Any) -> Any:
    """A numpy scalar: its dtype as recorded, and its bytes."""
    code = dtype.args[0] if _is(dtype, "numpy.dtype") and dtype.args else None
    order = dtype.state[1] if code and isinstance(dtype.state, tuple) and len(dtype.state) > 1 else None
    if code not in {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"} or order not in ("<", "|"):
        raise Misuse("a number of an unknown type")
    if type(data) is not bytes or len(data) != int(code[1:]):
        raise Misuse("a number of another length than its type")
    return np.frombuffer(data, order + code)[0].item()


def _is(value: Any, name: str) -> bool:
    return isinstance(value, Recorded) and value.name == name
