"""Sizes that arrays are padded to, so that few different shapes, each of which is compiled, occur."""

from __future__ import annotations


def power_of_two(n: int, least: int = 1) -> int:
    """The smallest power of two that is not below n >= 1; `least` where that is larger."""
    return max(least, 1 << (n - 1).bit_length())
