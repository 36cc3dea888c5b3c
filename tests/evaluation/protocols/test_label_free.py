"""Retrieval, clusters, and what needs no labels, against scikit-learn and formulas."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, average_precision_score, normalized_mutual_info_score
from torch.nn import functional as F

from hardviews.data.sources.shapes import Shapes
from hardviews.data.sources.subset import Subset
from hardviews.errors import InputError
from hardviews.evaluation.features import Features
from hardviews.evaluation.protocols import retrieval as retrieval_module
from hardviews.evaluation.protocols.clusters import clusters
from hardviews.evaluation.protocols.rankme import alignment, rankme, two_views, uniformity
from hardviews.evaluation.protocols.retrieval import average_precisions, retrieval
from tests.evaluation.protocols.given import bench_of, blobs, small_bench


def test_average_precision_equals_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, queries = blobs(300, 1), blobs(50, 2)
    similarity = F.normalize(queries.vectors, dim=1) @ F.normalize(gallery.vectors, dim=1).T
    theirs = [
        average_precision_score((gallery.labels == label).numpy(), row.numpy())
        for row, label in zip(similarity, queries.labels, strict=True)
    ]
    for at_once in (1 << 24, 300 * 7 + 1, 1):
        monkeypatch.setattr(retrieval_module, "SIMILARITIES_AT_ONCE", at_once)
        found = average_precisions(gallery.vectors, gallery.labels, queries.vectors, queries.labels)
        np.testing.assert_allclose(found.numpy(), theirs, atol=1e-6)
    assert dict(retrieval(bench_of(gallery, queries)))["retrieval_map"] == pytest.approx(np.mean(theirs))


def test_a_query_of_a_class_of_its_own_is_left_out() -> None:
    gallery, queries = blobs(100, 1, classes=3), blobs(30, 2, classes=4)
    rows = queries.labels < 3
    known = Features(queries.vectors[rows], queries.labels[rows], torch.arange(int(rows.sum())))
    assert len(known.labels) < 30
    expected = dict(retrieval(bench_of(gallery, known)))["retrieval_map"]
    assert dict(retrieval(bench_of(gallery, queries))) == {"retrieval_map": pytest.approx(expected)}


def test_clusters_equal_scikit_learn() -> None:
    train, test = blobs(50, 1), blobs(400, 2, noise=0.8)
    vectors = F.normalize(test.vectors, dim=1).numpy()
    found = KMeans(5, n_init=10, random_state=3).fit_predict(vectors)
    figures = dict(clusters(bench_of(train, test, seed=3)))
    assert figures["clusters_nmi"] == pytest.approx(normalized_mutual_info_score(test.labels, found))
    assert figures["clusters_ari"] == pytest.approx(adjusted_rand_score(test.labels, found))
    assert 0.3 < figures["clusters_nmi"] < 0.99
    assert dict(clusters(bench_of(train, test), count=2))["clusters_nmi"] < figures["clusters_nmi"]
    with pytest.raises(InputError, match="401 clusters"):
        list(clusters(bench_of(train, test), count=401))


def test_uniformity_and_alignment_are_their_formulas() -> None:
    a, b = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0))
    x, y = (v / v.norm(dim=1, keepdim=True) for v in (a.double(), b.double()))
    pairs = [float((-2 * (x[i] - x[j]).square().sum()).exp()) for i in range(40) for j in range(40) if i != j]
    assert uniformity(a) == pytest.approx(np.log(np.mean(pairs)))
    assert alignment(a, b) == pytest.approx(float((x - y).square().sum(1).mean()))
    assert alignment(a, 3 * a) == pytest.approx(0, abs=1e-12)


def test_rankme_needs_no_labels_and_two_views_are_of_the_same_image() -> None:
    bench = small_bench(train=20, test=60)
    for source in bench.sources:
        source.labels = None
    training = [module.training for module in bench.backbone.modules()]
    figures = dict(rankme(bench, images=50))
    assert 1 <= figures["rank"] <= 16
    assert figures["uniformity"] < 0
    source = bench.sources[1]
    some = Subset(source, torch.tensor([5, 3, 40]))
    a, b = two_views(bench, some)
    assert a.shape == b.shape == (3, 16)
    assert not torch.allclose(a, b)
    torch.testing.assert_close(two_views(bench, some)[0], a)  # the same again
    assert [module.training for module in bench.backbone.modules()] == training
    # Views of an image are nearer to each other than those of different images.
    a, b = two_views(bench, source)
    assert alignment(a, b) < alignment(a, b.roll(1, 0))


def test_rankme_of_data_without_a_test_split_is_of_all_images() -> None:
    bench = small_bench()
    bench.open = lambda: (Shapes("train", 80), None)
    seen = []
    bench.progress = lambda name, length: seen.append((name, length)) or (lambda _: None)  # type: ignore[func-returns-value]
    list(rankme(bench))
    assert ("features", 80) in seen
    bench.open = lambda: (Shapes("train", 1), None)
    with pytest.raises(InputError, match="two images"):
        list(rankme(bench))


def test_nothing_to_retrieve_is_named() -> None:
    gallery, queries = blobs(10, 1), blobs(10, 2)
    strangers = Features(queries.vectors, queries.labels + 50, queries.rows)
    with pytest.raises(InputError, match="retrieval"):
        list(retrieval(bench_of(gallery, strangers)))
