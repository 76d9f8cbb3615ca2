"""Amounts as people write them ↔ the integers of the contracts.

1. Nothing is rounded: an amount that is no whole number of the smallest unit is refused.
2. A refusal names the option, shows what was given and says which forms are known.
"""

import re
from datetime import UTC, datetime
from decimal import Decimal

import typer

__all__ = [
    "bytes_of",
    "bytes_text",
    "dollars_text",
    "micro_dollars_of",
    "milli_of",
    "milli_text",
    "pairs_of",
    "seconds_of",
    "seconds_text",
    "time_text",
]

NUMBER = r"([0-9]{1,12}(?:\.[0-9]{1,9})?)"
SECONDS = {"ms": Decimal("0.001"), "s": 1, "m": 60, "h": 3600, "d": 86400}
BYTES = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
DURATION = re.compile(rf"(?:{NUMBER}(ms|s|m|h|d))")


def refuse(field: str, text: str, wanted: str) -> typer.BadParameter:
    """The refusal of one amount."""
    return typer.BadParameter(f"{text!r} is no {wanted}", param_hint=field)


def whole(field: str, text: str, value: Decimal, wanted: str) -> int:
    """A value that must be a whole number of the smallest unit."""
    if value != value.to_integral_value():
        raise refuse(field, text, f"{wanted} in whole units: it is too fine")
    return int(value)


def seconds_of(field: str, text: str) -> int:
    """Seconds from `90s`, `10m`, `1h30m`, `2d`; "" is 0."""
    wanted = "duration such as 15s, 10m, 1h30m or 2d"
    if not text:
        return 0
    if not re.fullmatch(f"(?:{DURATION.pattern})+", text):
        raise refuse(field, text, wanted)
    parts = DURATION.findall(text)
    return whole(field, text, sum((Decimal(n) * SECONDS[u] for n, u in parts), Decimal()), wanted)


def bytes_of(field: str, text: str) -> int:
    """Bytes from `512MiB`, `1.5GiB`, `2GB`; "" is 0."""
    wanted = "size such as 512MiB, 1.5GiB or 2GB"
    if not text:
        return 0
    form = re.fullmatch(rf"{NUMBER} ?([A-Za-z]*)", text)
    if form is None or form[2] not in BYTES:
        raise refuse(field, text, wanted)
    return whole(field, text, Decimal(form[1]) * BYTES[form[2]], wanted)


def micro_dollars_of(field: str, text: str) -> int:
    """Micro-dollars from `5$`, `$5` or `0.25$`; "" is 0."""
    wanted = "amount of money such as 5$ or 0.25$"
    if not text:
        return 0
    form = re.fullmatch(rf"\$?{NUMBER} ?(?:\$|USD)?", text)
    if form is None:
        raise refuse(field, text, wanted)
    return whole(field, text, Decimal(form[1]) * 1_000_000, wanted)


def milli_of(field: str, text: str) -> int:
    """Thousandths from `2`, `0.5` or `500m`; "" is 0."""
    wanted = "number such as 2, 0.5 or 500m"
    if not text:
        return 0
    form = re.fullmatch(rf"{NUMBER}(m?)", text)
    if form is None:
        raise refuse(field, text, wanted)
    return whole(field, text, Decimal(form[1]) * (1 if form[2] else 1000), wanted)


def pairs_of(field: str, given: list[str]) -> dict[str, str]:
    """A mapping from `NAME=VALUE` items, each name once."""
    found: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not name or not equals or name in found:
            raise refuse(field, item, "NAME=VALUE, or its name was given before")
        found[name] = value
    return found


def seconds_text(seconds: int) -> str:
    """`1h30m` for 5400."""
    if seconds <= 0:
        return "0s"
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def bytes_text(size: int) -> str:
    """`1.5 GiB` for 1610612736."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= BYTES[unit]:
            return f"{size / BYTES[unit]:.4g} {unit}"
    return f"{size} B"


def dollars_text(micro_dollars: int) -> str:
    """`$0.0125` for 12500: as many places as it takes, two at least."""
    whole_part, rest = divmod(abs(micro_dollars), 1_000_000)
    places = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micro_dollars < 0 else ''}${whole_part:,}.{places}"


def milli_text(milli: int) -> str:
    """`1.5` for 1500."""
    return (
        f"{Decimal(milli) / 1000:f}".rstrip("0").rstrip(".") if milli % 1000 else f"{milli // 1000}"
    )


def time_text(at_us: int) -> str:
    """`2026-11-22 14:05:09Z`, or "-" for never."""
    if at_us <= 0:
        return "-"
    return datetime.fromtimestamp(at_us / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
