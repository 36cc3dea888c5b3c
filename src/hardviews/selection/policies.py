"""Policies: each is a function that chooses views, found by its name.

A policy gets the costs, the plan, the views as numbers and a generator, and returns the ids of the kept candidates,
int64 ``[K, B]``: target slots first, slot by slot, ascending within a slot. To add one, write a function under
``@policy``, which also takes ``allowed`` (``[V, B]``, the candidates that may be kept, None for all) by name;
``HardViews`` takes any function of the other four unregistered. A policy that learns (``unexpected``) is a module
whose buffers hold what it knows, so that runs save it.

A policy that needs no costs gets None, or zeros of the right shape if there are no views to tell the number of images
and the device.
"""

import inspect
import re
from collections.abc import Callable
from typing import Literal

import torch
import torch.distributed as dist
from torch import Generator, Tensor

from hardviews.errors import InputError, unknown
from hardviews.selection.costs import Costs
from hardviews.selection.search import best_of, first_ids, hardest_ids, largest_by_slot, random_ids
from hardviews.selection.unexpected import Unexpected
from hardviews.views.boxes import pairwise_iou
from hardviews.views.draw import Views
from hardviews.views.plan import ViewPlan

ALLOWED = ("allowed",)  # further arguments of a policy, given by name

# Of the policy ``learnable``: the momentum teacher, or a moving average of the weights with this momentum.
Reference = Literal["teacher"] | float

Policy = Callable[[Costs | None, ViewPlan, Views | None, Generator], Tensor]

_policies: dict[str, Policy] = {}
# Functions that map a number to a policy, and the kind of number.
_families: dict[str, tuple[Callable[..., Policy], type[int] | type[float]]] = {}


def policy(*, needs_costs: bool) -> Callable[[Policy], Policy]:
    """Registers a policy under its function's name. Without ``needs_costs`` it triggers no scoring and no forward."""

    def register(function: Policy) -> Policy:
        vars(function).update(needs_costs=needs_costs, takes=ALLOWED)
        _policies[function.__name__] = function
        return function

    return register


def needs_costs(chosen: Policy) -> bool:
    """Whether a policy needs costs; an unregistered function is assumed to."""
    return bool(getattr(chosen, "needs_costs", True))


def reference_of(chosen: Policy) -> Reference | None:
    """The network whose costs a policy compares with (``Costs.reference``); None for none."""
    found: Reference | None = getattr(chosen, "reference", None)
    return found


def __dir__() -> list[str]:
    return ["named", "names", "policy", *_policies, *(family.__name__ for family, _ in _families.values())]


def names() -> list[str]:
    """The names of all policies."""
    return sorted([*_policies, *_families])


def named(name: str) -> Policy:
    """The policy with a name such as ``"hardest"``, ``"sampled"``, ``"sampled(128)"`` or ``"unexpected(0.5)"``.

    One that learns is made anew by every call.

    Raises:
        InputError: no policy has that name.
    """
    call = re.fullmatch(r"(\w+)(?:\((\d+(?:\.\d+)?)\))?", name.strip())
    if call and call[1] in _families:
        family, number = _families[call[1]]
        if call[2] is None or number is float or call[2].isdigit():
            return family(*([number(call[2])] if call[2] else []))
    if call and call[1] in _policies and call[2] is None:
        return _policies[call[1]]
    start = name.partition("(")[0].strip()
    if start in _families:
        family, number = _families[start]
        (usual,) = (parameter.default for parameter in inspect.signature(family).parameters.values())
        what = "a whole number" if number is int else "a number"
        raise InputError(f"policy {name!r}: {start} takes {what}, such as {start}({usual or 0.99:g})")
    if start in _policies:
        raise InputError(f"policy {name!r}: {start} takes no number")
    raise unknown("policy", name, names())


@policy(needs_costs=True)
def hardest(
    costs: Costs | None, plan: ViewPlan, views: Views | None, generator: Generator, allowed: Tensor | None = None
) -> Tensor:
    """The combination with the largest total, exactly (Ferreira et al., ICLR 2025, sample it for multi-crop)."""
    return hardest_ids(require_costs(costs), plan, allowed)


@policy(needs_costs=True)
def easiest(
    costs: Costs | None, plan: ViewPlan, views: Views | None, generator: Generator, allowed: Tensor | None = None
) -> Tensor:
    """The combination with the smallest total, exactly: a comparison for selection, not a way to train."""
    costs = require_costs(costs)
    return hardest_ids(Costs(-costs.cross, None if costs.own is None else -costs.own), plan, allowed)


@policy(needs_costs=False)
def random(
    costs: Costs | None, plan: ViewPlan, views: Views | None, generator: Generator, allowed: Tensor | None = None
) -> Tensor:
    """A uniformly random combination for every image: the plain method, drawn from as many candidates.

    Keeps the views with the largest tickets, so that the choice does not depend on the number of processes; without
    views, the generator draws the tickets.
    """
    if views is not None:
        ticket = views.ticket
    else:
        batch, device = require_costs(costs).cross.shape[2], require_costs(costs).cross.device
        ticket = ids_on(torch.rand(plan.draw, batch, generator=generator), device)
    return largest_by_slot(ticket if allowed is None else ticket.where(allowed, -1.0), plan)


def sampled(limit: int = 64) -> Policy:
    """The hardest of ``limit`` random combinations, as published for DINO and iBOT (limits of 64 and 128).

    Each step draws one list, with replacement, for the batch. Processes that share a batch need generators in the
    same state.

    Raises:
        InputError: the limit is below 1.
    """
    if limit < 1:
        raise InputError(f"sampled({limit}): give the number of combinations to draw, 1 or more")

    def choose(
        costs: Costs | None, plan: ViewPlan, views: Views | None, generator: Generator, allowed: Tensor | None = None
    ) -> Tensor:
        costs = require_costs(costs)
        combos = ids_on(random_ids(plan, limit, generator).T, costs.cross.device)  # [C, K]
        ids = combos[best_of(costs, plan, combos, [], allowed)].T
        if allowed is None:
            return ids
        # Where the list holds no combination of allowed views alone, the first of these are kept.
        return torch.where(allowed.gather(0, ids).all(0), ids, largest_by_slot(allowed.float(), plan))

    vars(choose)["takes"] = ALLOWED
    choose.__name__ = choose.__qualname__ = f"sampled({limit})"
    return choose


def learnable(momentum: float | None = None) -> Policy:
    """The combination with the largest cost to the student minus that to a better network, exactly: what is hard for
    the one and not for the other can be learned (after the reducible loss of Mindermann et al., RHO-LOSS, ICML 2022).

    The better network is the momentum teacher, or with ``momentum`` (0.99) a moving average of the trained weights,
    for methods that have no teacher. Where the teacher has no own costs (iBOT's, who hides no patches), only costs
    between views are compared.

    Raises:
        InputError: the momentum is out of range.
    """
    if momentum is not None and not 0 <= momentum < 1:
        raise InputError(f"learnable({momentum:g}): the average's momentum must be at least 0 and below 1")

    def choose(
        costs: Costs | None, plan: ViewPlan, views: Views | None, generator: Generator, allowed: Tensor | None = None
    ) -> Tensor:
        costs = require_costs(costs)
        reference = costs.reference
        if reference is None:
            raise InputError(
                "policy learnable compares with a teacher's costs, and none were given: let the score function return "
                "Costs(cross, reference=Costs(...))"
            )
        both = costs.own is not None and reference.own is not None
        own = costs.own - reference.own if both and costs.own is not None and reference.own is not None else None
        return hardest_ids(Costs(costs.cross - reference.cross, own), plan, allowed)

    choose.__name__ = choose.__qualname__ = "learnable" if momentum is None else f"learnable({momentum:g})"
    vars(choose).update(takes=ALLOWED, reference="teacher" if momentum is None else momentum)
    return choose


def rescue(part: int = 4) -> Policy:
    """The hardest combination for the easiest images alone, 1 in ``part`` of a batch; the others keep the first
    candidates, which are the views of the plain method.

    Easy is an image whose first candidates cost little, among the images of all processes, which need equal shares of
    the batch. All candidates are scored nevertheless.

    Raises:
        InputError: the part is below 1.
    """
    if part < 1:
        raise InputError(f"rescue({part}): give the part of the images, 1 in so many; 1 is all of them")

    def choose(
        costs: Costs | None, plan: ViewPlan, views: Views | None, generator: Generator, allowed: Tensor | None = None
    ) -> Tensor:
        costs = require_costs(costs)
        batch, device = costs.cross.shape[2], costs.cross.device
        first = first_ids(plan, batch, device)
        total = costs.total(first)
        everyones, start = gathered(total)
        place = torch.arange(len(everyones), device=device)
        own = place[start : start + batch, None]
        before = (everyones < total[:, None]) | ((everyones == total[:, None]) & (place < own))  # [B, all]
        easy = before.sum(1) < len(everyones) // part
        if allowed is not None:
            first = largest_by_slot(allowed.float(), plan)  # the first of those
        return torch.where(easy, hardest_ids(costs, plan, allowed), first)

    choose.__name__ = choose.__qualname__ = f"rescue({part})"
    vars(choose)["takes"] = ALLOWED
    return choose


def gathered(own: Tensor) -> tuple[Tensor, int]:
    """``[B]`` of every process in a row, and where this one's begin."""
    if not (dist.is_available() and dist.is_initialized()):
        return own, 0
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own.contiguous())
    return torch.cat(parts), dist.get_rank() * len(own)


_families |= {"sampled": (sampled, int), "rescue": (rescue, int)}
_families |= {"unexpected": (Unexpected, float), "learnable": (learnable, float)}


@policy(needs_costs=False)
def lowest_iou(
    costs: Costs | None, plan: ViewPlan, views: Views | None, generator: Generator, allowed: Tensor | None = None
) -> Tensor:
    """The combination whose crops overlap least: lowest mean IoU over pairs of a kept target and another kept view."""
    return hardest_ids(Costs(-target_iou(plan, views)), plan, allowed)


@policy(needs_costs=False)
def highest_iou(
    costs: Costs | None, plan: ViewPlan, views: Views | None, generator: Generator, allowed: Tensor | None = None
) -> Tensor:
    """The combination whose crops overlap most, as ``lowest_iou`` measures it."""
    return hardest_ids(Costs(target_iou(plan, views)), plan, allowed)


def target_iou(plan: ViewPlan, views: Views | None) -> Tensor:
    """IoU of every target view's box with every view's box, ``[T, V, B]``."""
    if views is None:
        raise InputError("a policy of crop overlap needs the views' boxes: pass the drawn views to choose()")
    return pairwise_iou(views.box)[: plan.targets]


def require_costs(costs: Costs | None) -> Costs:
    if costs is None:
        raise InputError("this policy needs costs, and none were given")
    return costs


def ids_on(ids: Tensor, device: torch.device) -> Tensor:
    """Copies ids to a device: without waiting if it is a GPU; from a GPU it waits, since the CPU reads them at once."""
    return ids.to(device, non_blocking=device.type != "cpu")
