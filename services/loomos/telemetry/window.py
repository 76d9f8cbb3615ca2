"""What a window of GPU samples says; pure.

1. A sample comes from a node, so every field is checked for type and range; what is not
   understood is refused whole.
2. A window is a plain dict of numbers and lists, so that its store needs no code of ours.
3. Counters are compared within a window: the first sample of a window founds it, so errors of
   long ago do not alarm again.
"""

import json
from typing import Any

from loom.v1 import resource_manager_pb2 as rm

TEMPERATURE_CELSIUS_MAX = 90
# The driver's code for a GPU that has fallen off the bus: what a lost card would have said.
XID_FALLEN_OFF = 79
XIDS_MAX = 64
RECORD_BYTES_MAX = 4096
BOUNDS = {
    "utilisation_percent": 100,
    "memory_used_bytes": 1 << 50,
    "temperature_celsius": 1000,
    "power_milliwatts": 10**8,
    "sm_clock_mhz": 10**5,
    "ecc_double_bit": 1 << 53,
    "pcie_replays": 1 << 53,
}


class BadSample(ValueError):
    """A record is no sample; says why."""


def parse(record: bytes) -> dict[str, Any]:
    """The sample in a record of the telemetry topic; raises BadSample."""
    if len(record) > RECORD_BYTES_MAX:
        raise BadSample(f"{len(record)} bytes: at most {RECORD_BYTES_MAX}")
    try:
        given = json.loads(record)
    except (ValueError, RecursionError) as error:
        raise BadSample(f"not JSON: {error}") from error
    if not isinstance(given, dict):
        raise BadSample("not an object")
    sample: dict[str, Any] = {}
    for name in ("node_id", "uuid"):
        value = given.get(name)
        if not isinstance(value, str) or not 1 <= len(value) <= 128 or not value.isascii():
            raise BadSample(f"{name} is {value!r:.80}")
        sample[name] = value
    for name, bound in BOUNDS.items():
        value = given.get(name)
        if value is not None and (type(value) is not int or not 0 <= value <= bound):
            raise BadSample(f"{name} is {value!r:.80}: want 0 to {bound}")
        sample[name] = value
    xids = given.get("xids", [])
    if not isinstance(xids, list) or len(xids) > XIDS_MAX:
        raise BadSample(f"xids is {xids!r:.80}")
    if not all(type(xid) is int and 0 <= xid <= 100_000 for xid in xids):
        raise BadSample(f"xids holds something else than codes: {xids!r:.80}")
    sample["xids"] = [*xids, XID_FALLEN_OFF] if given.get("lost") is True else xids
    return sample


def fold(window: dict[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
    """The window with one more sample."""
    errors = sample["ecc_double_bit"]
    first = window.get("ecc_first")
    known = set(window.get("xids", ())) | set(sample["xids"])
    return {
        "samples": window.get("samples", 0) + 1,
        "utilisation_sum": window.get("utilisation_sum", 0) + (sample["utilisation_percent"] or 0),
        "memory_used_bytes_max": _highest(
            window, "memory_used_bytes_max", sample["memory_used_bytes"]
        ),
        "temperature_celsius_max": _highest(
            window, "temperature_celsius_max", sample["temperature_celsius"]
        ),
        "power_milliwatts_max": _highest(
            window, "power_milliwatts_max", sample["power_milliwatts"]
        ),
        "ecc_first": errors if first is None else first,
        "ecc_last": errors if errors is not None else window.get("ecc_last"),
        "xids": sorted(known)[:XIDS_MAX],
    }


def health(uuid: str, window: dict[str, Any]) -> rm.GpuHealth | None:
    """What the resource manager must hear of this window, or None if all is well."""
    first, last = window["ecc_first"], window["ecc_last"]
    grown = 0 if first is None or last is None else max(0, last - first)
    hot = window["temperature_celsius_max"] >= TEMPERATURE_CELSIUS_MAX
    if not (window["xids"] or grown or hot):
        return None
    return rm.GpuHealth(
        gpu_uuid=uuid,
        xids=window["xids"],
        ecc_uncorrectable=grown,
        temperature_celsius_max=window["temperature_celsius_max"],
    )


def _highest(window: dict[str, Any], name: str, value: int | None) -> int:
    return max(window.get(name, 0), value or 0)
