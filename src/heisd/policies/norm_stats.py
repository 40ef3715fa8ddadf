"""``norm_stats``: quantiles of the training actions, in the layout OpenVLA publishes them."""

from collections.abc import Mapping
from typing import Any

from heisd.codec import ActionCodec
from heisd.errors import BadArtifact, BadInput, UnknownName


def codec_from_stats(stats: Mapping[str, Any], unnorm_key: str | None, vocab_size: int) -> ActionCodec:
    """Codec of one data set of ``{key: {"action": {"q01": […], "q99": […], "mask": […]}}}``.

    ``unnorm_key`` may be left out when there is one data set only; ``libero_object`` also finds
    ``libero_object_no_noops``. Raises UnknownName, or BadArtifact for a malformed table.
    """
    key = _resolve(stats, unnorm_key)
    try:
        action = stats[key]["action"]
        q01, q99 = (tuple(float(v) for v in action[name]) for name in ("q01", "q99"))
        mask = tuple(bool(v) for v in action.get("mask", [True] * (len(q01) - 1) + [False]))
        return ActionCodec(vocab_size, q01, q99, mask)
    except (KeyError, TypeError, ValueError, BadInput) as error:
        raise BadArtifact(f"norm_stats of {key!r} are malformed: {error!r}") from None


def stats_of_codec(codec: ActionCodec, key: str) -> dict[str, Any]:
    """The table that :func:`codec_from_stats` reads back."""
    return {key: {"action": {"q01": list(codec.q01), "q99": list(codec.q99), "mask": list(codec.mask)}}}


def _resolve(stats: Mapping[str, Any], unnorm_key: str | None) -> str:
    if unnorm_key is None:
        if len(stats) != 1:
            raise BadInput(f"these weights know several data sets; choose an unnorm_key of {sorted(stats)}")
        return next(iter(stats))
    for key in (unnorm_key, f"{unnorm_key}_no_noops"):
        if key in stats:
            return key
    raise UnknownName("unnorm_key", unnorm_key, stats)
