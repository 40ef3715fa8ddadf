"""heisd: a runtime for speculative inference of Vision-Language-Action policies."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heisd.acceleration import AccelerateConfig, accelerate

__all__ = ["AccelerateConfig", "__version__", "accelerate"]
__version__ = "0.1.0"

if not TYPE_CHECKING:  # a type checker would take any name for granted

    def __getattr__(name: str) -> Any:
        """Load what is public when it is first asked for, so that ``import heisd`` stays quick."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from heisd import acceleration

        return getattr(acceleration, name)
