"""Errors meant for the person at the keyboard, and the one place that prints them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from absl import app


class UserError(Exception):
    """What happened, where (file, line, field), and what to do about it; shown without a stack trace."""


def run_main(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs `main` under absl; a `UserError` becomes one line on stderr and exit code 1, bugs keep their trace."""

    def guarded(argv: Sequence[str]) -> int | None:
        if len(argv) > 1:
            print(f"error: unexpected argument {argv[1]!r}; every option is written --name=value", file=sys.stderr)
            return 2
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    app.run(guarded)
