"""How long choosing takes, from network outputs to the kept views, for DINO's plan.

    python benchmarks/selection.py [--json FILE] [--device cuda]

1. Search alone, from costs to choice: 51,480 combinations per image.
2. Costs and exact choice from the outputs of the networks, at 65,536 prototypes, against scoring 128 sampled
   combinations one by one with a log-softmax each, as published, from the same outputs. First both are shown to give
   the same costs.
3. How search grows with candidates and images.
4. How often the policies sampled(64) and sampled(128) find the hardest combination, and how much of its hardness they
   keep: (their cost - the mean cost of all) / (the largest cost - the mean), for 5,000 images of random costs.
"""

from functools import partial
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from side_by_side import arguments, seconds, write
from torch import Tensor
from torch.nn import functional as F

from hardviews.networks.assignment import all_pairs
from hardviews.selection.costs import Costs
from hardviews.selection.policies import named
from hardviews.selection.search import hardest_ids, largest_by_slot, mean_total
from hardviews.views.plan import Slot, ViewPlan

PLAN = ViewPlan(
    (Slot("A", draw=2, keep=1), Slot("B", draw=2, keep=1), Slot("local", size=96, draw=16, keep=8, target=False))
)
IMAGES, PROTOTYPES, COMBINATIONS = 8, 65_536, 128
TEACHER_TEMPERATURE, STUDENT_TEMPERATURE = 0.04, 0.1


def dino_costs(student: Tensor, teacher: Tensor) -> Costs:
    """Student ``[V, B, P]`` and centred teacher ``[T, B, P]`` outputs to costs, as the method does it: an image at a
    time, so that what is made stays in the cache."""
    cross = [
        all_pairs(
            student[None, :, image] / STUDENT_TEMPERATURE,
            F.softmax(teacher[None, :, image] / TEACHER_TEMPERATURE, dim=-1),
        )[0]
        for image in range(student.shape[1])
    ]
    return Costs(torch.stack(cross, -1))


def total_one_by_one(student: Tensor, targets: Tensor, combination: list[int]) -> Tensor:
    """The loss of one combination, ``[B]``, computed as a DINO loss is: a log-softmax per view and combination."""
    log_p = {v: F.log_softmax(student[v] / STUDENT_TEMPERATURE, dim=-1) for v in combination}
    kept_targets = [t for t in combination if t < len(targets)]
    terms = [-(targets[t] * log_p[v]).sum(-1) for t in kept_targets for v in combination if v != t]
    return torch.stack(terms).mean(0)


def sampled_one_by_one(student: Tensor, teacher: Tensor, combinations: list[list[int]]) -> Tensor:
    """The totals of combinations scored one after the other, ``[C, B]``. The teacher's softmax is made only once."""
    targets = F.softmax(teacher / TEACHER_TEMPERATURE, dim=-1)
    return torch.stack([total_one_by_one(student, targets, combination) for combination in combinations])


def sampling(device: torch.device) -> dict[str, dict[str, float]]:
    """Random costs, a third each an effect of the target, of the view and of the pair. How often the hardest is found
    does not depend on that: it is one in 51,480 for every combination sampled."""
    generator = torch.Generator().manual_seed(1)
    images, found = 5000, {}
    target, view = (
        torch.randn(PLAN.targets, 1, images, generator=generator),
        torch.randn(1, PLAN.draw, images, generator=generator),
    )
    chance = torch.randn(PLAN.targets, PLAN.draw, images, generator=generator)
    costs = Costs((target + view + chance).to(device))
    hardest, mean = costs.total(hardest_ids(costs, PLAN)), mean_total(costs, PLAN)
    for limit in (64, 128):
        kept = costs.total(named(f"sampled({limit})")(costs, PLAN, None, generator))
        found[f"sampled{limit}"] = {
            "found_hardest": (kept >= hardest - 1e-6).float().mean().item(),
            "hardness_kept": ((kept - mean).mean() / (hardest - mean).mean()).item(),
        }
    return found


def growth(device: torch.device, repeats: int) -> dict[str, float]:
    """Milliseconds from costs to choice by candidates (pairs of V; T targets and V - T others, half of each kept) and
    images."""
    pairs = {f"pairs of {v}": ViewPlan((Slot(draw=v, keep=2),)) for v in (4, 8, 16)}
    crops = {
        f"2 of {2 * t}, {n} of {2 * n} others": ViewPlan(
            (Slot("A", draw=t, keep=1), Slot("B", draw=t, keep=1), Slot("C", draw=2 * n, keep=n, target=False))
        )
        for t, n in ((2, 8), (2, 32), (8, 8))
    }
    found = {}
    for name, plan in (pairs | crops).items():
        for images in (8, 64, 512):
            costs = Costs(torch.rand(plan.targets, plan.draw, images).to(device))
            hardest_ids(costs, plan)
            times = [seconds(partial(hardest_ids, costs, plan), device) for _ in range(4 * repeats)]
            found[f"{name}, {images} images"] = 1e3 * median(times)
    return found


@torch.no_grad()
def main() -> None:
    parser = arguments(__doc__)
    args = parser.parse_args()
    device: torch.device = args.device

    generator = torch.Generator().manual_seed(0)
    student = torch.randn(PLAN.draw, IMAGES, PROTOTYPES, generator=generator).to(device)
    teacher = torch.randn(PLAN.targets, IMAGES, PROTOTYPES, generator=generator).to(device) / 4
    combinations = largest_by_slot(torch.rand(PLAN.draw, COMBINATIONS, generator=generator), PLAN).T  # [C, K]

    # The baseline gives the same costs, and none of what it samples is harder than the exact choice.
    costs = dino_costs(student, teacher)
    sampled = sampled_one_by_one(student, teacher, combinations.tolist())
    ours = torch.stack([costs.total(row[:, None].expand(-1, IMAGES).to(device)) for row in combinations])
    torch.testing.assert_close(ours, sampled, rtol=1e-5, atol=1e-4)
    exact = costs.total(hardest_ids(costs, PLAN))
    assert bool((exact >= sampled.amax(0) - 1e-3).all())

    search, fast, slow = [], [], []
    for _ in range(args.repeats):  # side by side, so that what else the machine does falls on both
        search += [seconds(lambda: hardest_ids(costs, PLAN), device) for _ in range(20)]
        fast.append(seconds(lambda: hardest_ids(dino_costs(student, teacher), PLAN), device))
        slow.append(seconds(lambda: sampled_one_by_one(student, teacher, combinations.tolist()).argmax(0), device))
    figures: dict[str, Any] = {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "repeats": args.repeats,
        "search_ms": 1e3 * median(search),
        "exact_vs_sampled128": {
            "exact_s": median(fast),
            "sampled128_s": median(slow),
            "speedup": median(slow) / median(fast),
            "largest_difference_of_totals": (ours - sampled).abs().max().item(),
        },
        "search_growth_ms": growth(device, args.repeats),
        "sampling": sampling(device),
    }

    table = Table(title=f"DINO's plan, {IMAGES} images, {PROTOTYPES:,} prototypes, {device}; medians of {args.repeats}")
    for column, justify in (("", "left"), ("ms", "right"), ("combinations", "right"), ("×", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_row("search alone, costs to choice", f"{1e3 * median(search):.2f}", "51,480", "")
    table.add_row("costs and exact choice", f"{1e3 * median(fast):.1f}", "51,480", f"{median(slow) / median(fast):.1f}")
    table.add_row("sampled, one by one", f"{1e3 * median(slow):.1f}", f"{COMBINATIONS}", "1")
    Console().print(table)
    for name, milliseconds in figures["search_growth_ms"].items():
        print(f"search, {name}: {milliseconds:.3f} ms")
    for name, values in figures["sampling"].items():
        print(
            f"{name} finds the hardest of {values['found_hardest']:.2%} and keeps {values['hardness_kept']:.0%} of it"
        )
    write(args.json, figures)


if __name__ == "__main__":
    main()
