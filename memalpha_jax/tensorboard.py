"""Scalars in TensorBoard's event format, without TensorFlow.

An event file is a sequence of records (length, masked CRC of the length, payload, masked CRC of the payload);
the payload is the protocol buffer `tensorflow.Event`, of which four fields are written here by hand.
"""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed
_FLOAT32_MAX = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]


class EventWriter:
    """Appends scalars to a new event file of `directory`; every call is on disk when it returns.

    Args:
      first_step: TensorBoard drops what earlier files of the directory hold from this step on, so that a
        resumed run shows one curve.
    """

    def __init__(self, directory: Path, first_step: int = 0):
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self._file = open(directory / name, "ab", buffering=0)  # noqa: SIM115  closed by close()
        self._write(_field_bytes(3, b"brain.Event:2"))
        # SessionLog{status: START} is what makes TensorBoard purge the steps that are run again.
        self._write(_field_varint(2, first_step) + _field_bytes(7, _field_varint(1, 1)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one event with all `values` (tag to number) of a step."""
        summary = b"".join(_field_bytes(1, _scalar(tag, value)) for tag, value in values.items())
        self._write(_field_varint(2, step) + _field_bytes(5, summary))

    def close(self) -> None:
        self._file.close()

    def _write(self, event: bytes) -> None:
        self._file.write(frame_record(_field_double(1, time.time()) + event))


def frame_record(payload: bytes) -> bytes:
    """One record of the TFRecord format around `payload`."""
    length = struct.pack("<Q", len(payload))
    return length + _masked_crc(length) + payload + _masked_crc(payload)


def _scalar(tag: str, value: float) -> bytes:
    """Summary.Value{tag, simple_value}; what float32 cannot hold becomes an infinity."""
    if abs(value) > _FLOAT32_MAX:
        value = math.copysign(math.inf, value)
    return _field_bytes(1, tag.encode()) + _key(2, 5) + struct.pack("<f", value)


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field_varint(number: int, value: int) -> bytes:
    return _key(number, 0) + _varint(value)


def _field_double(number: int, value: float) -> bytes:
    return _key(number, 1) + struct.pack("<d", value)


def _field_bytes(number: int, value: bytes) -> bytes:
    return _key(number, 2) + _varint(len(value)) + value


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_CRC32C_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
