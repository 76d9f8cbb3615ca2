"""The GPUs of this node, through NVML; the only door of pynvml.

1. A simulated library is loaded by the very call that loads the real one: it bears the real
   library's soname and is mapped first, so the loader hands it out when pynvml asks for the name.
2. What a card does not support is absent (None), never zero: zero errors and no error counter
   are different facts.
3. A card that fails in the middle is reported as lost; it never hides the others.
"""

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml

from loomos.node_agent import nvml_sim

NVLINKS_MAX = 18
XIDS_PER_SAMPLE = 64


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a card is; does not change while the agent runs."""

    uuid: str
    model: str
    memory_bytes: int
    compute_capability: int
    """Times ten, e.g. 90."""
    mig_enabled: bool
    nvlinks: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What a card does now; None where the card does not tell."""

    uuid: str
    lost: bool = False
    utilisation_percent: int | None = None
    memory_used_bytes: int | None = None
    temperature_celsius: int | None = None
    power_milliwatts: int | None = None
    power_limit_milliwatts: int | None = None
    sm_clock_mhz: int | None = None
    ecc_single_bit: int | None = None
    ecc_double_bit: int | None = None
    pcie_replays: int | None = None
    xids: tuple[int, ...] = ()


class Gpus:
    """An open NVML session; its calls may block, so callers run them in a thread."""

    def __init__(self, scenario: Path | None, cache: Path) -> None:
        self._handles: dict[str, Any] = {}
        self._events: Any = None
        self.inventory: tuple[Gpu, ...] = ()
        self.driver = ""
        if scenario is not None:
            # Kept for the life of the process: NVML is never unloaded.
            ctypes.CDLL(str(nvml_sim.library(cache)), mode=ctypes.RTLD_GLOBAL)
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            if scenario is not None:
                raise RuntimeError(
                    f"GPU scenario {scenario} cannot be used: {error}; nvml_sim.c says its form"
                ) from error
            return
        self.driver = str(pynvml.nvmlSystemGetDriverVersion())
        self._open()

    def sample(self) -> list[Sample]:
        """One sample of every card, in the order of the inventory."""
        xids = self._new_xids()
        return [self._sample(gpu.uuid, tuple(xids.get(gpu.uuid, ()))) for gpu in self.inventory]

    def _open(self) -> None:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                gpu = _describe(handle)
            except pynvml.NVMLError:
                continue  # lost before we saw it: it has no name to report it by
            self._handles[gpu.uuid] = handle
            found.append(gpu)
        self.inventory = tuple(found)
        if not found:
            return
        self._events = _try(pynvml.nvmlEventSetCreate)
        for handle in self._handles.values():
            _try(
                pynvml.nvmlDeviceRegisterEvents,
                handle,
                pynvml.nvmlEventTypeXidCriticalError,
                self._events,
            )

    def _new_xids(self) -> dict[str, list[int]]:
        told: dict[str, list[int]] = {}
        if self._events is None:
            return told
        for _ in range(XIDS_PER_SAMPLE):
            try:
                data = pynvml.nvmlEventSetWait_v2(self._events, 0)
                uuid = str(pynvml.nvmlDeviceGetUUID(data.device))
            except pynvml.NVMLError:
                break
            told.setdefault(uuid, []).append(int(data.eventData))
        return told

    def _sample(self, uuid: str, xids: tuple[int, ...]) -> Sample:
        handle = self._handles[uuid]
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        except pynvml.NVMLError:
            return Sample(uuid, lost=True, xids=xids)
        load = _try(pynvml.nvmlDeviceGetUtilizationRates, handle)
        ecc = [
            _try(pynvml.nvmlDeviceGetTotalEccErrors, handle, kind, pynvml.NVML_AGGREGATE_ECC)
            for kind in (
                pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
                pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            )
        ]
        return Sample(
            uuid=uuid,
            utilisation_percent=None if load is None else int(load.gpu),
            memory_used_bytes=int(memory.used),
            temperature_celsius=_try(
                pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU
            ),
            power_milliwatts=_try(pynvml.nvmlDeviceGetPowerUsage, handle),
            power_limit_milliwatts=_try(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle),
            sm_clock_mhz=_try(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
            ecc_single_bit=ecc[0],
            ecc_double_bit=ecc[1],
            pcie_replays=_try(pynvml.nvmlDeviceGetPcieReplayCounter, handle),
            xids=xids,
        )


def _describe(handle: Any) -> Gpu:
    major, minor = _try(pynvml.nvmlDeviceGetCudaComputeCapability, handle) or (0, 0)
    mig = _try(pynvml.nvmlDeviceGetMigMode, handle)
    links = [_try(pynvml.nvmlDeviceGetNvLinkState, handle, link) for link in range(NVLINKS_MAX)]
    return Gpu(
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        model=str(pynvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        compute_capability=10 * major + minor,
        mig_enabled=bool(mig and mig[0]),
        nvlinks=sum(1 for link in links if link),
    )


def _try(call: Any, *arguments: Any) -> Any:
    """The answer, or None where this card or driver does not give it."""
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None
