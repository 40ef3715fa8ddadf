"""``python -m heisd.sim.experts``: see :mod:`heisd.sim.experts.measure`."""

# The measurement lives in a module of its own because spawned workers cannot import what is in ``__main__``.
from heisd.sim.experts.measure import main

if __name__ == "__main__":
    main()
