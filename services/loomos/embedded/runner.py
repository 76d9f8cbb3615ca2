"""Runs one service in this process: what `loomos run SERVICE` and the supervisor's children do.

1. A process loads its own service only; nothing is registered anywhere.
2. Whatever ends it is one line in its log, and an exit status other than 0.
3. Cycles of garbage are sought rarely: a service keeps much and makes few of them.
"""

import asyncio
import gc
import importlib
import json
import sys
from collections.abc import Coroutine
from typing import Any

from loom.kit.config import InvalidSetting, Settings
from loomos.embedded.services import module

__all__ = ["collect_rarely", "run_service"]

EXIT_SETTING = 2
EXIT_FAILED = 1
COLLECT_AFTER = (50_000, 20, 20)
"""Objects made since the last search: Python's own 700 cost a busy writer a third of its time."""


def run_service(name: str) -> int:
    """Run a service until it is told to stop; the process's exit status."""
    try:
        settings = Settings.load(name)
        wired = importlib.import_module(module(name))
    except InvalidSetting as error:
        return failed(name, str(error), EXIT_SETTING)
    except ModuleNotFoundError as error:
        if error.name is None or not module(name).startswith(error.name):
            raise
        return failed(name, f"no service {name!r} is installed", EXIT_SETTING)
    collect_rarely()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(entry(wired, settings))
    except InvalidSetting as error:
        return failed(name, str(error), EXIT_SETTING)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0
    except Exception as error:  # noqa: BLE001 - the last line of the process
        return failed(name, "; ".join(causes(error)), EXIT_FAILED)
    return 0


def collect_rarely() -> None:
    """Leave what was imported out of every search for garbage, and search less often."""
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def loop_factory() -> Any:
    """The quick event loop."""
    import uvloop

    return uvloop.new_event_loop


def entry(wired: Any, settings: Settings) -> Coroutine[Any, Any, None]:
    """A deciding service is run by the shell, an edge runs itself."""
    if hasattr(wired, "SERVICE"):
        from loom.kit.service import run

        return run(wired.SERVICE, settings)
    return wired.run(settings)


def causes(error: BaseException) -> list[str]:
    """What went wrong, without the groups that wrap it."""
    if isinstance(error, BaseExceptionGroup):
        return [line for one in error.exceptions for line in causes(one)]
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = ""
    if where is not None:
        place = f" ({where.tb_frame.f_code.co_filename}:{where.tb_lineno})"
    return [f"{type(error).__name__}: {error}{place}"]


def failed(name: str, line: str, status: int) -> int:
    """Say why the process ends, in the form of its log."""
    told = {"event": "ended", "level": "critical", "service": name, "error": line}
    sys.stderr.write(json.dumps(told) + "\n")
    sys.stderr.flush()
    return status
