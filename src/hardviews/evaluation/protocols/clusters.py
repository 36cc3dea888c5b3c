"""Agreement between classes and clusters found without labels."""

import importlib
from collections.abc import Iterator

from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.extras import require_package
from hardviews.wording import several


def clusters(bench: Bench, count: int = 0, starts: int = 10) -> Iterator[tuple[str, float]]:
    """Clusters the test images' features, scaled to length 1, by k-means and compares with their labels.

    Args:
        count: clusters; 0 for the number of classes.
        starts: number of k-means runs, of which the tightest result counts.

    Yields:
        ``clusters_nmi`` (normalised mutual information), ``clusters_ari`` (adjusted Rand index).
    """
    if count < 0 or starts < 1:
        raise InputError(f"clusters: count {count} and starts {starts} must be at least 0 and 1")
    require_package("clusters", "sklearn", "scikit-learn")
    cluster, metrics = (importlib.import_module(f"sklearn.{name}") for name in ("cluster", "metrics"))
    _, test = bench.labelled
    count = count or len(test.labels.unique())  # type: ignore[no-untyped-call]
    if count > len(test.labels):
        raise InputError(f"clusters: {several(len(test.labels), 'test image')} can't form {count} clusters")
    vectors = F.normalize(test.vectors, dim=1).numpy()
    found = cluster.KMeans(count, n_init=starts, random_state=bench.seed).fit_predict(vectors)
    labels = test.labels.numpy()
    yield "clusters_nmi", float(metrics.normalized_mutual_info_score(labels, found))
    yield "clusters_ari", float(metrics.adjusted_rand_score(labels, found))
