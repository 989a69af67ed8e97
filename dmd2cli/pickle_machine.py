"""The stack machine of unpickle.Reader: what each instruction of a pickle does to plain values, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from dmd2cli.errors import UserError

Key = (str, bytes, int, float, bool, type(None))
"""What may be a key of a dict or in a set: values whose hash is cheap and never recursive."""

PLAIN = {
    "collections.OrderedDict", "builtins.set", "builtins.frozenset", "builtins.bytearray", "__builtin__.set",
    "__builtin__.frozenset", "__builtin__.bytearray", "_codecs.encode",
}  # fmt: skip
"""Names that stand for plain containers and bytes, which older protocols spell as calls."""


@dataclass(frozen=True)
class Name:
    """A global that the file mentions. It is text: nothing is imported or looked up."""

    text: str
    """Module and name with a dot between."""


@dataclass(eq=False)
class Recorded:
    """What a file wants to be called with what; it was not."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    """What the file wants to set on the result."""


class Machine:
    """Stack, marks and memo. `where` names the file in messages."""

    def __init__(self, where: str, names: Collection[str], dicts: Collection[str], persistent: bool) -> None:
        """As of unpickle.Reader."""
        self.where, self.persistent = where, persistent
        self.dicts = {"collections.OrderedDict", *dicts}
        self.plain = PLAIN.union(dicts)
        self.names = self.plain.union(names)
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Do one instruction. Raises UserError for one that asks for something, LookupError and such for nonsense."""
        if opcode in _LITERALS:
            self.push(argument)
        elif opcode in _CONSTANTS:
            self.push(_CONSTANTS[opcode]())
        elif opcode in _HANDLERS:
            _HANDLERS[opcode](self, argument)
        else:
            raise UserError(f"{self.where}: uses the instruction {opcode}, which {_NEVER}")

    def refuse(self, what: str) -> UserError:
        """The error for a file that asks for something it should not need."""
        return UserError(f"{self.where}: wants {printable(what)}, which {_NEVER}")

    def push(self, value: Any) -> None:
        """Put a value on top of the stack as it is now."""
        self.stack.append(value)

    def after_mark(self) -> list[Any]:
        """What lies above the latest mark; the mark goes too."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def name(self, module: str, name: str) -> None:
        """Push a global, as text."""
        text = f"{module}.{name}"
        if text not in self.names:
            raise self.refuse(text)
        self.stack.append(Name(text))


_NEVER = "no file of weights needs; nothing was executed; get the file from its publisher again, or leave it alone"
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set,
}  # fmt: skip


def printable(text: str) -> str:
    """A text from a file as something that a terminal and a line of log can bear."""
    plain = ascii(text)[1:-1]
    return plain if len(plain) <= 120 else f"{plain[:117]}..."


def keyed(pairs: list[Any]) -> dict[Any, Any]:
    """A dict of what lies as key, value, key, value. Raises TypeError for keys of other types than Key."""
    keys, values = pairs[::2], pairs[1::2]
    if len(keys) != len(values):
        raise ValueError("a key without a value")
    return dict(zip(scalars(keys), values, strict=True))


def scalars(items: list[Any]) -> list[Any]:
    """The items, all of them of the types Key; anything else raises TypeError."""
    if any(type(item) not in Key for item in items):
        raise TypeError("a key that is no number or text")
    return items


def _mark(m: Machine, _: Any) -> None:
    m.marks.append(m.stack)
    m.stack = []


def _tuple(n: int) -> Callable[[Machine, Any], None]:
    def handler(m: Machine, _: Any) -> None:
        if len(m.stack) < n:
            raise IndexError("stack is empty")
        m.stack[-n:] = [tuple(m.stack[-n:])]

    return handler


def _extend(m: Machine, items: list[Any]) -> None:
    target = m.stack[-1]
    if type(target) is not list:
        raise m.refuse(f"to append to a {_kind(target)}")
    target.extend(items)


def _set_items(m: Machine, pairs: list[Any]) -> None:
    target = m.stack[-1]
    if type(target) is not dict:
        raise m.refuse(f"to set items of a {_kind(target)}")
    target.update(keyed(pairs))


def _add_items(m: Machine, items: list[Any]) -> None:
    target = m.stack[-1]
    if type(target) is not set:
        raise m.refuse(f"to add to a {_kind(target)}")
    target.update(scalars(items))


def _set_item(m: Machine, _: Any) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    _set_items(m, [key, value])


def _global(m: Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    m.name(module, name)


def _stack_global(m: Machine, _: Any) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise m.refuse("a global whose name is no text")
    m.name(module, name)


def _call(m: Machine, _: Any) -> None:
    """REDUCE and NEWOBJ: note down who would have been called with what."""
    args, callee = m.stack.pop(), m.stack.pop()
    if type(callee) is not Name or type(args) is not tuple:
        raise m.refuse(f"to call a {_kind(callee)} with a {_kind(args)}")
    made = _container(m, callee.text, args) if callee.text in m.plain else Recorded(callee.text, args)
    m.stack.append(made)


def _container(m: Machine, name: str, args: tuple[Any, ...]) -> Any:
    """What the older protocols spell as a call: OrderedDict(), set([...]), encode("...", "latin1")."""
    kind = name.rpartition(".")[2]
    if name in m.dicts and args == ():
        return {}
    if kind in ("set", "frozenset") and len(args) == 1 and type(args[0]) is list:
        return (set if kind == "set" else frozenset)(scalars(args[0]))
    if kind == "bytearray" and len(args) == 1 and type(args[0]) is bytes:
        return bytearray(args[0])
    if kind == "encode" and len(args) == 2 and type(args[0]) is str and args[1] in ("latin1", "latin-1"):
        return args[0].encode("latin1")
    raise m.refuse(f"to call {name} with unusual arguments")


def _build(m: Machine, _: Any) -> None:
    """BUILD: note down the state of a recorded object. A state dict's own OrderedDict has one too, of no use here."""
    state = m.stack.pop()
    target = m.stack[-1]
    if type(target) is dict and type(state) is dict and state.keys() <= {"_metadata"}:
        return
    if type(target) is not Recorded or target.state is not None:
        raise m.refuse(f"to set the state of a {_kind(target)}")
    target.state = state


def _persistent(m: Machine, _: Any) -> None:
    reference = m.stack.pop()
    if not m.persistent or type(reference) is not tuple:
        raise m.refuse("a persistent object")
    m.stack.append(Recorded("persistent", reference))


def _kind(value: Any) -> str:
    return value.text if type(value) is Name else value.name if type(value) is Recorded else type(value).__name__


_HANDLERS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "STOP": lambda m, _: None,
    "MARK": _mark,
    "TUPLE1": _tuple(1), "TUPLE2": _tuple(2), "TUPLE3": _tuple(3),
    "TUPLE": lambda m, _: m.push(tuple(m.after_mark())),
    "LIST": lambda m, _: m.push(m.after_mark()),
    "DICT": lambda m, _: m.push(keyed(m.after_mark())),
    "FROZENSET": lambda m, _: m.push(frozenset(scalars(m.after_mark()))),
    "APPEND": lambda m, _: _extend(m, [m.stack.pop()]),
    "APPENDS": lambda m, _: _extend(m, m.after_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda m, _: _set_items(m, m.after_mark()),
    "ADDITEMS": lambda m, _: _add_items(m, m.after_mark()),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _call, "NEWOBJ": _call,
    "BUILD": _build,
    "BINPERSID": _persistent,
    **{name: lambda m, n: m.memo.__setitem__(n, m.stack[-1]) for name in ("PUT", "BINPUT", "LONG_BINPUT")},
    **{name: lambda m, n: m.push(m.memo[n]) for name in ("GET", "BINGET", "LONG_BINGET")},
}  # fmt: skip
