"""Warns, once per sign, if the network maps all pictures to nearly the same features, and suggests a remedy."""

from collections.abc import Callable, Iterable, Mapping, Sequence

LEAST_STD = 0.1  # of features; 1 is spread evenly over the sphere
LEAST_INFORMATION = 0.05  # nats of information that the assigned prototype carries about the picture
LEAST_RANK = 0.2  # fraction of the embedding's rank before training
SETTLED = 1  # epochs before a warning: networks start with low values

TRY = {
    "feature_std": "a lower --lr, a larger --batch-size, milder views (--plan.strength, --plan.scale)",
    "information": "a sharper teacher (--method.teacher_temperature 0.02), a lower --lr, milder views, "
    "--method.bn_in_head true",
    "embedding_rank": "a lower --lr, more --weight-decay, milder views",
}


class CollapseWatch:
    """Checks every step's figures and every measurement for signs of collapse.

    Args:
        say: prints a warning, once per sign.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._said = say, set[str]()
        self._epoch, self._count, self._sums = -1, 0, dict[str, float]()

    def note(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Takes rows of metrics in order of steps; ignores skipped steps."""
        for row in rows:
            if row["epoch"] != self._epoch:
                self.judge()
                self._epoch, self._sums, self._count = int(row["epoch"]), {}, 0
            if row["skipped"]:
                continue
            self._count += 1
            found = {"feature_std": row.get("feature_std")}
            if "teacher_entropy" in row:
                # The entropy of the mean assignment minus the mean entropy of assignments is the information that an
                # assignment carries about its picture: 0 if all are uniform, and 0 if all are equal.
                found["information"] = row["teacher_entropy_of_mean"] - row["teacher_entropy"]
            for name, value in found.items():
                if value is not None:
                    self._sums[name] = self._sums.get(name, 0.0) + value

    def measured(self, ranks: Sequence[float]) -> None:
        """Takes all measurements so far of the embedding's rank."""
        if ranks and ranks[-1] < LEAST_RANK * ranks[0]:
            self._warn("embedding_rank", f"the embedding's rank fell from {ranks[0]:.1f} to {ranks[-1]:.1f}")

    def judge(self) -> None:
        """Judges the epoch that has ended."""
        if self._epoch < SETTLED or not self._count:
            return
        means = {name: total / self._count for name, total in self._sums.items()}
        if means.get("feature_std", 1.0) < LEAST_STD:
            self._warn(
                "feature_std",
                f"features of different pictures are nearly the same, feature_std {means['feature_std']:.3f} "
                f"in epoch {self._epoch + 1} (1 is spread evenly)",
            )
        if means.get("information", 1.0) < LEAST_INFORMATION:
            self._warn(
                "information",
                "the teacher hardly tells pictures apart, teacher_entropy_of_mean - teacher_entropy "
                f"{means['information']:.3f} in epoch {self._epoch + 1}",
            )

    def _warn(self, sign: str, what: str) -> None:
        if sign not in self._said:
            self._said.add(sign)
            self._say(f"collapse? {what}; try {TRY[sign]}")
