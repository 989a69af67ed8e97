"""Begin a plugin: a distribution that installs and passes its tests at once, from templates."""

from __future__ import annotations

from dmd2cli.scaffold.names import Names, named
from dmd2cli.scaffold.writing import scaffold

__all__ = ["Names", "named", "scaffold"]
