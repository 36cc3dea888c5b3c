"""The weighted kNN against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from hardviews.errors import InputError
from hardviews.evaluation.features import Features
from hardviews.evaluation.protocols import knn as knn_module
from hardviews.evaluation.protocols.knn import knn, knn_accuracy, knn_votes, voters
from tests.evaluation.protocols.given import bench_of


def features(count: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 7, (count,), generator=generator)
    centres = torch.randn(7, 16, generator=torch.Generator().manual_seed(0))
    return Features(centres[labels] + 1.5 * torch.randn(count, 16, generator=generator), labels, torch.arange(count))


@pytest.mark.parametrize("k", [1, 5, 20, 200])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_equals_scikit_learn(k: int, temperature: float) -> None:
    bank, queries = features(600, 1), features(150, 2)

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / temperature)  # scikit-learn's cosine distance is 1 - cosine

    theirs = KNeighborsClassifier(k, weights=weights, metric="cosine", algorithm="brute")
    theirs.fit(bank.vectors.numpy(), bank.labels.numpy())
    (votes,) = knn_votes(bank.vectors, bank.labels, queries.vectors, 7, [k], temperature)
    probabilities = torch.from_numpy(theirs.predict_proba(queries.vectors.numpy())).float()
    torch.testing.assert_close(votes / votes.sum(1, keepdim=True), probabilities, atol=1e-5, rtol=1e-4)
    accuracy = knn_accuracy(bank, queries, k, temperature)
    assert accuracy == pytest.approx(theirs.score(queries.vectors.numpy(), queries.labels.numpy()))
    assert 0.2 < accuracy < 0.999


def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = features(600, 1), features(150, 2)
    whole = knn_votes(bank.vectors, bank.labels, queries.vectors, 7, [20, 3], 0.07)
    for rows in (70, 7):  # more and fewer than the neighbours that are asked for
        monkeypatch.setattr(knn_module, "ROWS", rows)
        torch.testing.assert_close(knn_votes(bank.vectors, bank.labels, queries.vectors, 7, [20, 3], 0.07), whole)


def test_several_k_and_small_banks(caplog: pytest.LogCaptureFixture) -> None:
    """A figure is named by the neighbours that voted, which are said where they are fewer than was asked for."""
    queries = features(30, 2)
    for images, named in ((30, {"knn_top1_k5": 5, "knn_top1": 20, "knn_top1_k30": 30, "knn_top1_k1": 1}),
                          (12, {"knn_top1_k5": 5, "knn_top1_k12": 12, "knn_top1_k1": 1})):  # fmt: skip
        bank = features(images, 1)
        caplog.clear()
        figures = dict(knn(bench_of(bank, queries), [5, 20, 200, 1]))
        assert figures == {name: knn_accuracy(bank, queries, k) for name, k in named.items()}
        few = "20, 200" if images == 12 else "200"
        assert caplog.messages == [f"knn: only {images} training images vote, fewer than k {few}"]


def test_tiny_temperature_is_the_nearest_neighbour() -> None:
    bank, queries = features(300, 1), features(100, 2)
    nearest = bank.labels[(F.normalize(queries.vectors) @ F.normalize(bank.vectors).T).argmax(1)]
    assert knn_accuracy(bank, queries, 20, 1e-6) == (nearest == queries.labels).double().mean().item()


def test_wrong_options_are_named() -> None:
    for ks, temperature in (([0], 0.07), ([], 0.07), ([5], 0.0)):
        with pytest.raises(InputError, match="knn"):
            list(knn(bench_of(features(10, 1), features(10, 2)), ks, temperature))


@pytest.mark.parametrize("k", [1, 20, 149])
def test_leave_one_out_equals_scikit_learn_without_the_image(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many classifiers as images; also where parts are smaller than the neighbours that are asked for."""
    found = features(150, 1)
    theirs = []
    for one in range(150):
        rest = np.arange(150) != one

        def weights(distance: np.ndarray) -> np.ndarray:
            return np.exp((1 - distance) / 0.07)

        classifier = KNeighborsClassifier(k, weights=weights, metric="cosine", algorithm="brute")
        classifier.fit(found.vectors[rest].numpy(), found.labels[rest].numpy())
        theirs.append(classifier.predict(found.vectors[one : one + 1].numpy())[0])
    accuracy = np.mean(np.array(theirs) == found.labels.numpy())
    assert 0.2 < accuracy < 0.999
    for rows in (4096, 64, 7):
        monkeypatch.setattr(knn_module, "ROWS", rows)
        assert knn_accuracy(found, found, k, leave_one_out=True) == pytest.approx(accuracy)
    assert knn_accuracy(found, found, 1) == 1.0  # where every image votes for itself


def test_small_balanced_sets_are_not_below_chance_when_images_are_left_out() -> None:
    """If all others voted, the class of the image left out would have one vote less than the other."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20) % 2
    bank = Features(torch.randn(20, 4, generator=generator) * 1e-3 + 1, labels, torch.arange(20))
    assert voters(20, bank, leave_one_out=True) == 9
    assert knn_accuracy(bank, bank, 20, 100.0, leave_one_out=True) > 0.2
