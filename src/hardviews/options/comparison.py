"""The settings of ``hardviews compare``."""

from dataclasses import dataclass, field


@dataclass
class CompareOptions:
    """Trains with several policies on the same images in the same order, measures all alike, and says whether they
    differ by more than noise.

    Args:
        out: the folder of the comparison; an existing one resumes where it stopped, and takes more seeds or arms. By
            default runs/compare-METHOD-DATA.
        policies: the arms: hardest, random, easiest, lowest_iou, highest_iou, sampled(64), unexpected(1), ...
        arm: a further arm, NAME: and options of pretrain that only it has, such as "cheap: --score-resolution 0.75";
            may be given again.
        baseline: the arm that the others are compared with; by default random if it is an arm, otherwise the first arm.
        seeds: how many (5 is 0 to 4), or which (0,1,7).
        protocol: what is measured of every run at the end; takes the protocol's options too, such as --linear.epochs.
        labelled: labelled data that the runs are measured on, if --data has no labels; by default --data.
        labelled_test: its test data; by default --test-data if --labelled is not given.
        equal_epochs: train every arm for --epochs epochs; false: only the baseline.
        equal_time: train arms that are slower or faster than the baseline for as many epochs as take its time.
        timed_steps: steps of every arm that are timed, side by side, to plan with.
    """

    out: str | None = None
    policies: str = "random,hardest"
    arm: list[str] = field(default_factory=list)
    baseline: str | None = None
    seeds: int | list[int] = 3
    protocol: str = "knn,linear"
    labelled: str | None = None
    labelled_test: str | None = None
    equal_epochs: bool = True
    equal_time: bool = True
    timed_steps: int = 8
