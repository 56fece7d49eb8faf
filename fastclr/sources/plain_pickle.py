"""Read a pickle of numbers, text, containers and arrays of bytes, without the modules that would rebuild them."""

from __future__ import annotations

import math
import pickletools
import re
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

# opcodes whose argument is the value
VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
VALUES |= {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"}
STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # those of Python 2: bytes
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
ARRAY = "array"
ADMITTED = {
    "numpy.core.multiarray _reconstruct": ARRAY,
    "numpy._core.multiarray _reconstruct": ARRAY,
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
}


@dataclass(frozen=True)
class Name:
    """Stands for a function or class of NumPy, which is not called."""

    value: str


@dataclass
class Made:
    """Stands for what a call of `made_by` returns: the arguments, and the state that is set afterwards, once."""

    made_by: str
    arguments: tuple[Any, ...]
    state: Any = None


def read_pickle(data: bytes) -> Any:
    """Return what is pickled in `data`; arrays are `Made`, see `byte_array`, and strings of Python 2 are bytes.

    Nothing is imported and nothing is called. NumPy's own functions would follow a state that does not fit its array
    out of the array's memory.

    Raises:
        ValueError: the pickle is damaged, or holds something else.
    """
    try:
        return Machine().run(data)
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"damaged pickle ({type(error).__name__}: {error})") from error


class Machine:
    """The stack and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """Return the last value on the stack."""
        for opcode, argument, _ in pickletools.genops(data):
            self.step(opcode.name, argument)
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        """Take off all values above the last mark."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def step(self, name: str, argument: Any) -> None:
        """Do what one opcode says."""
        stack = self.stack
        if name in VALUES:
            stack.append(argument)
        elif name in STRINGS:
            stack.append(argument.encode("latin-1"))
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif name in TUPLES:
            values = [stack.pop() for _ in range(TUPLES[name])]
            stack.append(tuple(reversed(values)))
        elif name in ("APPEND", "APPENDS"):
            values = [stack.pop()] if name == "APPEND" else self.since_mark()
            of_type(stack[-1], list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self.since_mark()
            # a key that is a tuple of tuples of ... would exhaust the stack of C while it is hashed
            keys = [of_type(key, (bytes, str, int)) for key in values[::2]]
            of_type(stack[-1], dict).update(zip(keys, values[1::2], strict=True))
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "GLOBAL":
            stack.append(admitted(argument))
        elif name == "STACK_GLOBAL":
            attribute, module = of_type(stack.pop(), str), of_type(stack.pop(), str)
            stack.append(admitted(f"{module} {attribute}"))
        elif name == "REDUCE":
            arguments, function = of_type(stack.pop(), tuple), of_type(stack.pop(), Name)
            stack.append(Made(function.value, arguments))
        elif name == "BUILD":
            state, made = stack.pop(), of_type(stack[-1], Made)
            if made.state is not None:
                raise ValueError("damaged pickle (a state is set twice)")
            made.state = state
        elif name not in ("PROTO", "FRAME", "STOP"):
            refuse(f"opcode {name}")


def refuse(what: str) -> NoReturn:
    """Raise a ValueError."""
    raise ValueError(f"refused to load {what}: only arrays and basic types are admitted")


def admitted(name: str) -> Name:
    """Return the stand-in for a function or class, given as ``module name``; others are a ValueError."""
    if name not in ADMITTED:
        refuse(name.replace(" ", "."))
    return Name(ADMITTED[name])


def of_type(value: Any, kind: type | tuple[type, ...]) -> Any:
    """Return `value` if it is of the kind that an opcode needs; otherwise a TypeError."""
    if not isinstance(value, kind):
        raise TypeError(f"unexpected {type(value).__name__}")
    return value


def byte_array(value: object) -> npt.NDArray[np.uint8] | str:
    """Return the uint8 array that `value` stands for, or in words what it is instead."""
    if not isinstance(value, Made) or value.made_by != ARRAY:
        return type(value).__name__
    if not isinstance(value.state, tuple) or len(value.state) != 5:
        return "an array without contents"
    _, shape, dtype, fortran, data = value.state
    if (
        not isinstance(shape, tuple)
        or len(shape) > 8
        or not all(type(side) is int and 0 <= side < 2**63 for side in shape)
    ):
        return "an array without a shape"
    kind = dtype.arguments[0] if isinstance(dtype, Made) and dtype.made_by == "dtype" and dtype.arguments else None
    kind = kind.decode("latin-1") if isinstance(kind, bytes) else kind
    if kind not in ("u1", "|u1", "uint8"):
        known = isinstance(kind, str) and re.fullmatch(r"[|<>=]?[biufc][1248]", kind)
        return f"{np.dtype(kind).name if known else 'an unknown kind'} {shape}"
    if not isinstance(data, bytes) or len(data) != math.prod(shape):
        return f"uint8 {shape} in {len(data) if isinstance(data, bytes) else 'no'} bytes"
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")
