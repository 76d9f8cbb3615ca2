"""Walks the model for longer: `python -m tests.model --seed N --steps M [--whole]`."""

import argparse
import sys
import time

from tests.model.explore import explore, walk
from tests.model.scenario import LONG, SCENARIOS, WIDE


def main() -> int:
    """Walk, print what was found; 1 when a promise broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--whole", action="store_true", help="also walk every small world whole")
    options = parser.parse_args()
    begun = time.monotonic()
    found = walk(LONG, options.seed, options.steps)
    print(f"seed {options.seed}: {found}  [{time.monotonic() - begun:.0f} s]", flush=True)
    broken = bool(found.violation)
    for name, scenario in (SCENARIOS | WIDE).items() if options.whole else ():
        found = explore(scenario, states_max=3_000_000)
        print(f"{name}: {found}", flush=True)
        broken = broken or bool(found.violation)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
