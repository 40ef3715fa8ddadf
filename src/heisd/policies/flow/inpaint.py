"""Guided denoising (:mod:`heisd.policies.guidance`): one Euler step is a forward and a pass back to its input.

The fast path writes keys and values in place and cannot be differentiated, so the action expert runs in its training
form, behind the prefix that the fast path has cached: the same numbers up to rounding, and no second prefill.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from heisd.policies.flow.network import KeysValues
from heisd.policies.flow.schedule import endpoint
from heisd.policies.guidance import Guide, guidance_weight


def guided(
    velocity: Callable[[Tensor, float], Tensor], times: tuple[float, ...], guide: Guide, like: Tensor
) -> Callable[[Tensor, int], Tensor]:
    """A velocity for ``integrate`` that pulls (H, A) chunks towards ``guide``.

    Args: ``velocity(x, t)`` of the policy, differentiable; ``times`` the levels that are asked for; ``like`` a tensor
    of the type and device that chunks have.
    """
    wanted, weights = (torch.from_numpy(a).to(like) for a in (guide.wanted, guide.weights[:, None]))

    def pulled(x: Tensor, i: int) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            v = velocity(x, times[i])
            clean = endpoint(x, v, torch.tensor(times[i]).to(like))
            error = ((wanted - clean) * weights).detach()
            (pull,) = torch.autograd.grad(clean, x, error)
        return v.detach() - guidance_weight(times[i], guide.max_weight) * pull

    return pulled


def training_form(data: Tensor, n_positions: int) -> KeysValues:
    """Keys and values of the first positions of a packed block, (layers, 2, G, capacity, head_dim), as modules do.

    Packed keys have the two numbers that are turned together as neighbours; here they are half a head apart.
    """
    cached = data[:, :, None, :, :n_positions]
    halves = cached[:, 0].unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)  # type: ignore[no-untyped-call]
    return tuple((keys.clone(), values.clone()) for keys, values in zip(halves, cached[:, 1], strict=True))
