"""Pickles read as data, by a reader that knows neither import nor call: nothing in a file can run.

A pickle is a program for a small machine with a stack. Two of its instructions make it dangerous: "import this name"
and "call that". Here the first pushes a Name, a pair of words that is never looked up, and only if the caller expects
that name in such a file; the second pushes a Recorded, which says what would have been called with what. Instructions
that a pickler does not write for tensors and plain containers are not known at all. The opcodes themselves are
decoded by pickletools.genops, the standard library's disassembler, which executes nothing.
"""

from __future__ import annotations

import pickletools
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import IO, Any

from dmd2cli.errors import UserError
from dmd2cli.pickle_machine import Machine, Name, Recorded, printable

__all__ = ["Name", "Reader", "Recorded", "printable"]


class Reader:
    """Reads pickles of one kind. `where` names the file in messages."""

    def __init__(
        self, where: str, names: Collection[str], dicts: Collection[str] = (), persistent: bool = False
    ) -> None:
        """names: globals to expect, beyond plain containers. dicts: names of dict classes, read as dicts.

        persistent: whether references to storages outside of the pickle are expected.
        """
        self.where = where
        self._expected = (where, names, dicts, persistent)

    def read(self, stream: IO[bytes]) -> Any:
        """The next pickle of the stream: plain values, Names and Recordeds.

        stream: in memory or mapped, so that a length in the file cannot make it allocate more than there is. Raises
        UserError for a file that is cut, garbled, or names anything that was not expected.
        """
        machine = Machine(*self._expected)
        with self._readable():
            for opcode, argument, _ in pickletools.genops(stream):
                machine.step(opcode.name, argument)
            return machine.stack.pop()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """What a garbled file makes of the machine, as one line."""
        try:
            yield
        except (ValueError, IndexError, KeyError, TypeError) as err:
            reason = "a reference to nothing" if isinstance(err, KeyError) else printable(str(err))
            raise UserError(f"{self.where}: not a whole pickle ({reason}); copy or download it again") from None
