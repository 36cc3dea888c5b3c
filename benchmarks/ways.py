"""The ways of scoring that are measured."""

from hardviews.selection.scoring import EXACT, Scoring

WAYS = {
    "exact": EXACT,
    "exact, targets not used again": Scoring(reuse=False),
    "resolution 0.75": Scoring(resolution=0.75),
    "resolution 0.5": Scoring(resolution=0.5),
    "resolution 0.375": Scoring(resolution=0.375),
    "resolution 0.25": Scoring(resolution=0.25),
    "teacher": Scoring(network="teacher"),
    "teacher, resolution 0.5": Scoring(network="teacher", resolution=0.5),
    "teacher, resolution 0.375": Scoring(network="teacher", resolution=0.375),
    "teacher of targets": Scoring(network="teacher_targets"),
    "teacher of targets, resolution 0.5": Scoring(network="teacher_targets", resolution=0.5),
    "half the patches": Scoring(token_keep=0.5),
    "a quarter of the patches": Scoring(token_keep=0.25),
    "resolution 0.5, half the patches": Scoring(resolution=0.5, token_keep=0.5),
    "depth 0.75": Scoring(depth=0.75),
    "depth 0.5": Scoring(depth=0.5),
    "depth 0.75, resolution 0.75": Scoring(depth=0.75, resolution=0.75),
    "depth 0.5, resolution 0.75": Scoring(depth=0.5, resolution=0.75),
    "depth 0.5, resolution 0.5": Scoring(depth=0.5, resolution=0.5),
}
