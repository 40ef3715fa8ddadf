"""heisd: a runtime for speculative inference of Vision-Language-Action policies."""

__version__ = "0.1.0"
