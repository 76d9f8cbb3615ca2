"""Builds the simulated NVML library from nvml_sim.c on first use.

1. What is built is named by the digest of its source, so a changed source is built anew and a
   finished build is never rebuilt; it is renamed into place whole.
2. No compiler is assumed: `cc` is used where there is one, else the `ziglang` wheel is fetched.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml_sim.c")
SONAME = "libnvidia-ml.so.1"
BUILD_TIMEOUT_SECONDS = 300


def library(cache: Path) -> Path:
    """The path of the built library under this cache folder."""
    source = SOURCE.read_bytes()
    target = cache / "nvml" / hashlib.sha256(source).hexdigest()[:24] / SONAME
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        built = Path(scratch) / SONAME
        flags = ["-O1", "-shared", "-fPIC", f"-Wl,-soname,{SONAME}", "-o", str(built), str(SOURCE)]
        result = subprocess.run(
            [*_compiler(Path(scratch)), *flags],
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_SECONDS,
            env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": scratch, "ZIG_LOCAL_CACHE_DIR": scratch},
        )
        if result.returncode != 0:
            raise RuntimeError(f"the simulated NVML does not compile: {result.stderr[-400:]}")
        built.replace(target)
    return target


def _compiler(scratch: Path) -> list[str]:
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found:
        return [found]
    return [sys.executable, str(_fetch_zig(scratch)), "cc"]


def _fetch_zig(scratch: Path) -> Path:
    """Installs the compiler wheel into a folder of its own, not into our own environment."""
    target = scratch / "ziglang"
    uv = shutil.which("uv")
    install = (
        [uv, "pip", "install", "--python", sys.executable]
        if uv
        else [sys.executable, "-m", "pip", "install", "--quiet"]
    )
    result = subprocess.run(
        [*install, "--target", str(target), "ziglang>=0.13,<0.17"],
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_SECONDS,
    )
    if result.returncode != 0:
        raise RuntimeError(
            "no C compiler on this machine and the ziglang wheel cannot be fetched; install a C "
            f"compiler or run without a GPU scenario: {result.stderr[-400:]}"
        )
    return target / "ziglang" / "__main__.py"
