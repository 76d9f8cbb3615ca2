"""A short, urgent LoomOS job: multiplies matrices for a few seconds and leaves their checksum."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def main():
    """Works for the seconds given as the only argument, six by default."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 6.0
    random = np.random.default_rng(11)
    matrix = random.random((128, 128))
    until, products = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        matrix = matrix @ matrix
        matrix /= np.abs(matrix).max()
        products += 1
    result = {"products": products, "sha256": hashlib.sha256(matrix.tobytes()).hexdigest()}
    folder = Path(os.environ.get("LOOMOS_OUTPUT_DIR", "."))
    (folder / "result.json").write_text(json.dumps(result, sort_keys=True) + "\n")
    print(json.dumps(result, sort_keys=True))


if __name__ == "__main__":
    main()
