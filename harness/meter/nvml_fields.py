"""NVML's field values: one call for all fields of a card, decoded at once; return codes before values.

The call that ``pynvml`` offers builds its array anew each time and reads it back value by value, which at 20
reads a second of 8 cards costs more than everything else that a sampler does. So the array is kept and the
driver's function is called with it, and one ``struct`` decodes it. Of a ``pynvml`` that does not show its
function pointers, and of a simulated one, the public call is used: the same array comes back.
"""

from __future__ import annotations

import ctypes
import math
import re
import struct
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from harness.meter.base import ReadStatus, Sample

ENERGY, POWER_MEAN, POWER = 83, 185, 186
"""``NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION``, ``_POWER_AVERAGE``, ``_POWER_INSTANT`` of nvml.h."""
SCOPES = {0: "gpu", 1: "module", 2: "memory"}
"""``NVML_POWER_SCOPE_*``."""
# Time below the requested clocks, by cause, in nanoseconds. The numbers 251 to 253, used for the last three
# by the headers of driver 575, meant something else in 570, as do 269 to 271 in 575 and, by the bindings released
# with it, in 580.65; those of 580.82 have them: read only from there on.
_THROTTLE = {74: "power_cap", 75: "thermal"}
_THROTTLE_580_82 = {269: "software_thermal", 270: "hardware_thermal", 271: "power_brake"}

LAYOUT = "IIqqIIQ"
"""``nvmlFieldValue_t``: field, scope, timestamp in microseconds since 1970, latency, type, return code, value."""
_SIZE = 7
DOUBLE, UINT, ULONG, ULL, SIGNED_LL, SIGNED, USHORT = range(7)
"""``nvmlValueType_t``."""
_BITS = {ULONG: 64, ULL: 64, SIGNED_LL: 64, SIGNED: 32, USHORT: 16}  # of Linux, where a long has 64
_SIGNED = frozenset({SIGNED_LL, SIGNED})
_MASK32 = 0xFFFF_FFFF
_FULL = 0xFFFF_FFFF_FFFF_FFFF


class Wanted(NamedTuple):
    """A field to read, and what becomes of it."""

    field: int  # NVML_FI_DEV_...
    scope: int  # NVML_POWER_SCOPE_...
    channel: int  # of the samples
    unit: float  # the field's number in units of this


def throttle_fields(driver: str) -> dict[int, str]:
    """Clock-event counters that a driver of this version has, field to cause."""
    version = re.match(r"(\d+)\.(\d+)", driver)
    recent = version is not None and (int(version[1]), int(version[2])) >= (580, 82)
    return _THROTTLE | (_THROTTLE_580_82 if recent else {})


class Fields:
    """Some fields of one card, read in one call."""

    def __init__(self, nvml: Any, handle: Any, wanted: Sequence[Wanted]) -> None:
        self._nvml = nvml
        self._channels = [(one.channel, one.unit) for one in wanted]
        self._unpack = struct.Struct("=" + LAYOUT * len(wanted)).unpack_from
        self._statuses: dict[int, ReadStatus] = {}
        pairs = [(one.field, one.scope) for one in wanted]
        self._call = _direct(nvml, handle, pairs) or _public(nvml, handle, pairs)

    def read(self, at_ns: int) -> list[Sample]:
        """Every field in the order asked for; the whole call's failure is every field's."""
        try:
            numbers = self._unpack(self._call())
        except self._nvml.NVMLError as error:
            status = self._status(error.value)
            return [Sample(channel, at_ns, status) for channel, _ in self._channels]
        samples: list[Sample] = []
        make, ok = Sample._make, ReadStatus.OK  # half the time of a call with names
        rows = zip(
            self._channels, numbers[2::_SIZE], numbers[4::_SIZE], numbers[5::_SIZE], numbers[6::_SIZE], strict=True
        )
        for (channel, unit), timestamp, kind, code, bits in rows:
            if code:
                samples.append(Sample(channel, at_ns, self._status(code)))
                continue
            number = bits if kind == ULL and bits != _FULL else decode(kind, bits)
            if number is None:
                samples.append(Sample(channel, at_ns, ReadStatus.MISSING))
            else:
                samples.append(make((channel, at_ns, ok, number * unit, timestamp * 1000 if timestamp > 0 else None)))
        return samples

    def _status(self, code: int) -> ReadStatus:
        status = self._statuses.get(code)
        if status is None:
            status = self._statuses[code] = status_of(self._nvml, code)
        return status


def decode(kind: int, bits: int) -> float | None:
    """The number in the 8 bytes of an ``nvmlValue_t``.

    ``None`` of a type that is not known, a number below 0, or all bits set, which says "not available": no
    field that is read here can mean any of them.
    """
    if kind == UINT:
        bits &= _MASK32
        return bits if bits != _MASK32 else None
    if kind == DOUBLE:
        number: float = struct.unpack("=d", struct.pack("=Q", bits))[0]
        return number if 0 <= number < math.inf else None
    width = _BITS.get(kind)
    if width is None:
        return None
    full = (1 << width) - 1
    bits &= full
    return None if bits == full or (kind in _SIGNED and bits >> (width - 1)) else bits


def status_of(nvml: Any, code: int) -> ReadStatus:
    """What a return code of NVML means for a reading."""
    if code == nvml.NVML_SUCCESS:
        return ReadStatus.OK
    # An unknown field is an invalid argument to an older driver.
    if code in {
        nvml.NVML_ERROR_NOT_SUPPORTED,
        nvml.NVML_ERROR_INVALID_ARGUMENT,
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        nvml.NVML_ERROR_DEPRECATED,
    }:
        return ReadStatus.UNSUPPORTED
    if code == nvml.NVML_ERROR_NO_PERMISSION:
        return ReadStatus.DENIED
    if code in {
        nvml.NVML_ERROR_GPU_IS_LOST,
        nvml.NVML_ERROR_RESET_REQUIRED,
        nvml.NVML_ERROR_UNINITIALIZED,
        nvml.NVML_ERROR_DRIVER_NOT_LOADED,
        nvml.NVML_ERROR_GPU_NOT_FOUND,
    }:
        return ReadStatus.LOST
    return ReadStatus.MISSING


def _public(nvml: Any, handle: Any, wanted: list[tuple[int, int]]) -> Callable[[], Any]:
    return lambda: nvml.nvmlDeviceGetFieldValues(handle, wanted)


def _direct(nvml: Any, handle: Any, wanted: list[tuple[int, int]]) -> Callable[[], Any] | None:
    """The driver's own function on an array that is kept; ``None`` where it can't be had."""
    if not isinstance(nvml, ModuleType):
        return None
    try:
        function = nvml._nvmlGetFunctionPointer("nvmlDeviceGetFieldValues")
    except (AttributeError, nvml.NVMLError):
        return None  # the public call works, or says what is wrong
    blank = (nvml.c_nvmlFieldValue_t * len(wanted))()
    for value, (field, scope) in zip(blank, wanted, strict=True):
        # Until the driver says otherwise: a field that it leaves out must not be read as 0, or as its last value.
        value.fieldId, value.scopeId, value.nvmlReturn = field, scope, nvml.NVML_ERROR_UNKNOWN
    values = type(blank)()
    count, size = len(wanted), ctypes.sizeof(blank)

    def call() -> Any:
        ctypes.memmove(values, blank, size)
        code = function(handle, count, values)
        if code:
            raise nvml.NVMLError(code)
        return values

    return call
