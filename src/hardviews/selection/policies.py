"""How a choice of views is made: one function per policy, found by its name.

A policy is given the costs, the plan, the views as numbers and a generator, and returns the ids of the kept
candidates, int64 ``[K, B]``: target slots first, slot by slot, ascending within a slot. A new one is one function under
``@policy``; any function of that form can be passed to ``HardViews`` without being registered.

One that needs costs is given them. One that doesn't is given None, or zeros of the right shape where there are no views
to tell how many images there are and on which device.
"""

import re
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from hardviews.errors import InputError, unknown
from hardviews.selection.costs import Costs
from hardviews.selection.search import best_of, hardest_ids, largest_by_slot, random_ids
from hardviews.views.boxes import pairwise_iou
from hardviews.views.draw import Views
from hardviews.views.plan import ViewPlan

Policy = Callable[[Costs | None, ViewPlan, Views | None, Generator], Tensor]

_policies: dict[str, Policy] = {}
_families: dict[str, Callable[..., Policy]] = {}  # functions of a number that return a policy


def policy(*, needs_costs: bool) -> Callable[[Policy], Policy]:
    """Registers a policy under its function's name. Without ``needs_costs`` nothing is scored for it: no forward."""

    def register(function: Policy) -> Policy:
        vars(function)["needs_costs"] = needs_costs
        _policies[function.__name__] = function
        return function

    return register


def needs_costs(chosen: Policy) -> bool:
    """Whether a policy has to be given costs; a function of the user's own is taken to need them."""
    return bool(getattr(chosen, "needs_costs", True))


def names() -> list[str]:
    """The names of all policies."""
    return sorted([*_policies, *_families])


def named(name: str) -> Policy:
    """The policy of a name such as ``"hardest"``, ``"sampled"`` or ``"sampled(128)"``.

    Raises:
        InputError: no policy has that name.
    """
    call = re.fullmatch(r"(\w+)(?:\((\d+)\))?", name.strip())
    if call and call[1] in _families:
        return _families[call[1]](*([int(call[2])] if call[2] else []))
    if call and call[1] in _policies and call[2] is None:
        return _policies[call[1]]
    raise unknown("policy", name, names())


@policy(needs_costs=True)
def hardest(costs: Costs | None, plan: ViewPlan, views: Views | None, generator: Generator) -> Tensor:
    """The combination of the largest total, exactly (Ferreira et al., ICLR 2025, who sample it for multi-crop)."""
    return hardest_ids(given(costs), plan)


@policy(needs_costs=True)
def easiest(costs: Costs | None, plan: ViewPlan, views: Views | None, generator: Generator) -> Tensor:
    """The combination of the smallest total, exactly: what selection should be compared with, not a way to train."""
    costs = given(costs)
    return hardest_ids(Costs(-costs.cross, None if costs.own is None else -costs.own), plan)


@policy(needs_costs=False)
def random(costs: Costs | None, plan: ViewPlan, views: Views | None, generator: Generator) -> Tensor:
    """Any combination, uniformly, for every image by itself: the plain method, drawn from as many candidates.

    The largest tickets of the views are kept, so that the choice does not depend on the number of processes; without
    views the tickets come from the generator.
    """
    if views is not None:
        return largest_by_slot(views.ticket, plan)
    batch, device = given(costs).cross.shape[2], given(costs).cross.device
    return moved(random_ids(plan, batch, generator), device)


def sampled(limit: int = 64) -> Policy:
    """The hardest of ``limit`` random combinations, as published for DINO and iBOT (limits of 64 and 128).

    One list is drawn a step, with replacement, for the whole batch. Processes that share a batch should be given
    generators of equal state.

    Raises:
        InputError: a limit below 1.
    """
    if limit < 1:
        raise InputError(f"sampled({limit}): give the number of combinations to draw, 1 or more")

    def choose(costs: Costs | None, plan: ViewPlan, views: Views | None, generator: Generator) -> Tensor:
        costs = given(costs)
        combos = moved(random_ids(plan, limit, generator).T, costs.cross.device)  # [C, K]
        return combos[best_of(costs, plan, combos, free=[])].T

    choose.__name__ = choose.__qualname__ = f"sampled({limit})"
    return choose


_families["sampled"] = sampled


@policy(needs_costs=False)
def lowest_iou(costs: Costs | None, plan: ViewPlan, views: Views | None, generator: Generator) -> Tensor:
    """The combination whose crop boxes overlap least: mean IoU over pairs of a kept target and another kept view."""
    return hardest_ids(Costs(-target_iou(plan, views)), plan)


@policy(needs_costs=False)
def highest_iou(costs: Costs | None, plan: ViewPlan, views: Views | None, generator: Generator) -> Tensor:
    """The combination whose crop boxes overlap most, as ``lowest_iou`` measures it."""
    return hardest_ids(Costs(target_iou(plan, views)), plan)


def target_iou(plan: ViewPlan, views: Views | None) -> Tensor:
    """IoU of every target view's box with every view's, ``[T, V, B]``."""
    if views is None:
        raise InputError("a policy of crop overlap needs the views' boxes: pass the views that were drawn to choose()")
    return pairwise_iou(views.box)[: plan.targets]


def given(costs: Costs | None) -> Costs:
    if costs is None:
        raise InputError("this policy chooses by costs, and none were given")
    return costs


def moved(ids: Tensor, device: torch.device) -> Tensor:
    """On another device; to a GPU without waiting for it (from one, what is read at once must have arrived)."""
    return ids.to(device, non_blocking=device.type != "cpu")
