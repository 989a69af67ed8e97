"""Libraries that write bars and advice to stderr, silenced."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Without anything that diffusers and transformers say; their errors are raised all the same."""
    import diffusers
    import transformers

    logs = [library.utils.logging for library in (diffusers, transformers)]
    held = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    try:
        for log in logs:
            log.set_verbosity(logging.CRITICAL)
            log.disable_progress_bar()
        yield
    finally:
        for log, (level, bar) in zip(logs, held, strict=True):
            log.set_verbosity(level)
            if bar:
                log.enable_progress_bar()
