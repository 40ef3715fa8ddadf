"""The comparison of presets as README and docs/comparison.md have it, from any directory of results, on stdout.

python benchmarks/compare.py DIR        DIR/compare-*, DIR/success-*, DIR/memory.json (scripts/comparison.sh)
"""

import sys
from pathlib import Path

import measured
from comparison import comparison, details, headline
from rows import read_groups


def main() -> None:
    """Print every table; exits when there is no such directory, or nothing in it to compare."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        raise SystemExit(
            f"usage: python benchmarks/compare.py DIR, of results; got {' '.join(sys.argv[1:]) or 'nothing'}"
        )
    results = Path(sys.argv[1])
    groups = read_groups(results)
    if not groups:
        raise SystemExit(f"{results} holds no finished compare-* or success-* run (scripts/comparison.sh makes them)")
    tables = (headline(groups), comparison(groups, measured.memory(results)), details(groups))
    print("\n\n".join("\n".join(lines) for lines in tables if lines))


if __name__ == "__main__":
    main()
