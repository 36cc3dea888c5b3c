"""DINO, where the first process takes its time to close its log, as those of web services do."""

import time

from hardviews.methods.dino import DINO
from hardviews.training.output.loggers import TensorBoard


class SlowLog(DINO):
    pass


close = TensorBoard.close


def late(log: TensorBoard) -> None:
    time.sleep(3)
    close(log)


TensorBoard.close = late  # type: ignore[method-assign, assignment]
