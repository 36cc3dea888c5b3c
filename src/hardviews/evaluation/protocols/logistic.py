"""Logistic regression on frozen features by L-BFGS; held-out training images choose its strength.

Kornblith et al., "Do Better ImageNet Models Transfer Better?", CVPR 2019, section 3.1; Radford et al., "CLIP", ICML
2021, appendix A.3.
"""

import importlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hardviews.errors import InputError
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.extras import require_package
from hardviews.evaluation.heads import tuning_rows, warn_of_edge

STRENGTHS = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]


def logistic(bench: Bench, strengths: list[float] = STRENGTHS, iterations: int = 1000) -> Iterator[tuple[str, float]]:
    """Test accuracy of scikit-learn's logistic regression, fitted on all training images after its strength is chosen.

    Args:
        strengths: values to try for scikit-learn's C, the inverse strength of the penalty.
        iterations: maximum iterations of L-BFGS.

    Yields:
        ``logistic_top1``, and the chosen ``logistic_c``.
    """
    if min(strengths, default=0.0) <= 0 or iterations < 1:
        raise InputError(f"logistic: strengths {strengths} and iterations {iterations} must be above 0")
    require_package("logistic", "sklearn", "scikit-learn")
    train, test = bench.labelled
    x, y = train.richest, train.labels
    fit, choose = tuning_rows(y, bench.seed)
    advance = bench.progress("logistic", len(strengths) + 1)
    scored = []
    for strength in strengths:
        classifier = regression(x[fit], y[fit], strength, iterations)
        scored.append(classifier.score(x[choose].numpy(), y[choose].numpy()))
        advance(1)
    best = strengths[max(range(len(scored)), key=scored.__getitem__)]
    if len(strengths) > 1:
        warn_of_edge("logistic", "strengths", strengths, scored, best)
    predictions = torch.from_numpy(regression(x, y, best, iterations).predict(test.richest.numpy()))
    advance(1)
    metric, value = bench.score(predictions, test.labels)
    yield f"logistic_{metric}", value
    yield "logistic_c", best


def regression(x: Tensor, y: Tensor, strength: float, iterations: int) -> Any:
    """A pipeline that standardises features and classifies them."""
    linear, pipeline, scaling = (
        importlib.import_module(f"sklearn.{name}") for name in ("linear_model", "pipeline", "preprocessing")
    )
    made = pipeline.make_pipeline(
        scaling.StandardScaler(), linear.LogisticRegression(C=strength, max_iter=iterations, tol=1e-4)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="sklearn")  # convergence warnings: the held-out part decides anyway
        return made.fit(x.numpy(), y.numpy())
