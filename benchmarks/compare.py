"""The comparison of presets as README and docs/comparison.md have it, from any directory of results, on stdout.

python benchmarks/compare.py DIR        DIR/compare-*, DIR/success-*, DIR/memory.json (scripts/comparison.sh)

and DIR/flow-compare-*, DIR/flow-success-* with DIR/rounds-*.json, as docs/flow.md has it.
"""

import sys
from pathlib import Path

import flow
import measured
from comparison import comparison, details, headline
from rows import CHUNKS, read_groups
from targets import flow_targets

CALIBRATIONS = Path(__file__).parents[1] / "src" / "heisd" / "weights" / "libero-flow-calibration"


def main() -> None:
    """Print every table; exits when there is no such directory, or nothing in it to compare."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        raise SystemExit(
            f"usage: python benchmarks/compare.py DIR, of results; got {' '.join(sys.argv[1:]) or 'nothing'}"
        )
    results = Path(sys.argv[1])
    groups, flows = read_groups(results), read_groups(results, CHUNKS)
    if not (groups or flows):
        raise SystemExit(f"{results} holds no finished compare-* or success-* run (scripts/comparison.sh makes them)")
    tables = (
        headline(groups), comparison(groups, measured.memory(results)), details(groups),
        flow_targets(flows, results), flow.comparison(flows, CALIBRATIONS), flow.details(flows),
        flow.model(flows, results),
    )  # fmt: skip
    print("\n\n".join("\n".join(lines) for lines in tables if lines))


if __name__ == "__main__":
    main()
