"""The platform's own price list, and the arithmetic of cost.

The list is what an on-premises fleet of such machines costs an hour: the lowest on-demand rates of
the large clouds in 2025, without their margin. An agreed price (`price.published`) wins over it.
All integers: quantities in thousandths of a unit, money in micro-dollars.
"""

from loom.v1 import common_pb2
from loom.v1 import marketplace_pb2 as pb

__all__ = ["LIST", "LIST_VERSION", "cost_lines", "gpu_sku", "total"]

LIST_VERSION = "on-prem-2026-11"
LIST: dict[str, int] = {
    "cpu-core": 24_000,
    "memory-gib": 3_200,
    "storage-gib": 110,
    "gpu:NVIDIA A100-PCIE-40GB": 1_190_000,
    "gpu:NVIDIA A100-SXM4-80GB": 1_790_000,
    "gpu:NVIDIA H100 80GB HBM3": 2_990_000,
    "gpu:NVIDIA L4": 560_000,
    "gpu:Tesla V100-SXM2-16GB": 740_000,
}
ANY_GPU = "gpu:any"
GIB = 1 << 30
SECONDS_PER_HOUR = 3600


def gpu_sku(model: str, agreed: dict[str, int]) -> str:
    """The sku of a GPU model; one that no list has is charged as the dearest that there is."""
    sku = f"gpu:{model}"
    return sku if sku in agreed or sku in LIST else ANY_GPU


def price_of(sku: str, agreed: dict[str, int]) -> int:
    """Micro-dollars per unit and hour."""
    if sku == ANY_GPU:
        known = {**LIST, **agreed}
        return max(price for name, price in known.items() if name.startswith("gpu:"))
    return agreed.get(sku, LIST.get(sku, 0))


def cost_lines(
    resources: common_pb2.Resources, gpu_models: list[str], seconds: int, agreed: dict[str, int]
) -> list[pb.CostLine]:
    """What these resources cost for so long; one GPU model for each whole GPU held."""
    quantities = {
        "cpu-core": resources.cpu_milli,
        "memory-gib": milli_gib(resources.memory_bytes),
        "storage-gib": milli_gib(resources.storage_bytes),
    }
    for model in gpu_models:
        sku = gpu_sku(model, agreed)
        quantities[sku] = quantities.get(sku, 0) + 1000
    lines = []
    for sku in sorted(quantities):
        if quantities[sku]:
            price = price_of(sku, agreed)
            exact = quantities[sku] * seconds * price
            lines.append(
                pb.CostLine(
                    sku=sku,
                    quantity_milli=quantities[sku],
                    seconds=seconds,
                    micro_dollars_per_hour=price,
                    micro_dollars=(2 * exact + 1000 * SECONDS_PER_HOUR)
                    // (2 * 1000 * SECONDS_PER_HOUR),
                )
            )
    return lines


def total(lines: list[pb.CostLine]) -> int:
    """Sum of the lines, micro-dollars."""
    return sum(line.micro_dollars for line in lines)


def milli_gib(size_bytes: int) -> int:
    """Thousandths of a GiB, rounded down."""
    return size_bytes * 1000 // GIB
