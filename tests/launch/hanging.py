"""A method whose second process hangs in its seventh step, while collectives wait for seconds; a plugin, as users write
them."""

import os
import time
from datetime import timedelta
from typing import Any

from hardviews.launch import processes
from hardviews.methods.dino import DINO
from hardviews.setup import fabric

fabric.PATIENCE = timedelta(seconds=20)  # more than any process lags behind on a busy machine
processes.PATIENCE = 0.5


class Hanging(DINO):
    def after_step(self, encoding: Any) -> None:
        super().after_step(encoding)
        if self.progress.step == 6 and os.environ.get("HANGS", "none") == os.environ.get("RANK"):
            time.sleep(1000)
