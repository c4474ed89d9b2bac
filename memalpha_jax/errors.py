"""Errors meant for the person at the keyboard, and the one place that prints them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from absl import app


class UserError(Exception):
    """What happened, where (file, line, field), and what to do about it; shown without a stack trace."""


def run_main(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs `main` under absl; a `UserError` becomes one line on stderr and exit code 1.

    Faults of the command line itself (unknown option or config key, wrong type) end with exit code 2,
    `--help` with 0, Ctrl-C with 130. Bugs keep their trace.
    """
    from memalpha_jax.command_line import parse_flags  # it raises UserError, so it needs this module

    def guarded(argv: Sequence[str]) -> int | None:
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    # On a machine without a TPU this logger greets everybody with a failure that is none.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    app.run(guarded, flags_parser=parse_flags)
