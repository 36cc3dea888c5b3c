"""Linear and logistic classification: against scikit-learn, and blind to the test labels."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from hardviews.data.sources.subset import Subset
from hardviews.data.sources.table import Table
from hardviews.errors import InputError
from hardviews.evaluation import protocols
from hardviews.evaluation.bench import Bench
from hardviews.evaluation.heads import fitted, shuffled, tuning_rows, warn_of_edge
from hardviews.evaluation.protocols.linear import linear
from hardviews.evaluation.protocols.logistic import logistic
from hardviews.networks.backbones import create_backbone
from tests.evaluation.protocols.given import READY, bench_of, blobs, small_bench

PACK = Path(__file__).parents[4] / "shared" / "data" / "cifar10"


def by_hand(strengths: list[float], seed: int) -> tuple[float, float]:
    """scikit-learn on the same blobs and the same held-out part."""
    train, test = blobs(900, 1), blobs(400, 2)
    fit, choose = tuning_rows(train.labels, seed)
    x, y = train.vectors.numpy(), train.labels.numpy()

    def score(strength: float, rows: Any, tx: Any, ty: Any) -> float:
        scaler = StandardScaler().fit(x[rows])
        model = LogisticRegression(C=strength, max_iter=1000).fit(scaler.transform(x[rows]), y[rows])
        return float(model.score(scaler.transform(tx), ty))

    best = max(strengths, key=lambda c: score(c, fit.numpy(), x[choose.numpy()], y[choose.numpy()]))
    return best, score(best, slice(None), test.vectors.numpy(), test.labels.numpy())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_logistic_equals_scikit_learn_by_hand(seed: int) -> None:
    strengths = [1e-4, 1e-2, 1.0]
    figures = dict(logistic(bench_of(blobs(900, 1), blobs(400, 2), seed=seed), strengths))
    best, score = by_hand(strengths, seed)
    assert figures == {"logistic_top1": pytest.approx(score), "logistic_c": best}
    assert 0.4 < score < 0.95


def test_linear_comes_close_to_logistic() -> None:
    bench = bench_of(blobs(900, 1), blobs(2000, 2))
    found = dict(linear(bench, epochs=50)) | dict(logistic(bench))
    assert abs(found["linear_top1"] - found["logistic_top1"]) < 0.02
    assert found["linear_top1"] > 0.6


def test_classifiers_side_by_side_are_those_trained_alone() -> None:
    train = blobs(300, 1)
    batches = shuffled(train.vectors, train.labels, train.rows, 64, 0)
    rates = [1e-3, 1e-2, 1e-1]
    together = fitted(train.vectors, 5, rates, batches, 5, 5)
    for number, rate in enumerate(rates):
        alone = fitted(train.vectors, 5, [rate], batches, 5, 5)
        torch.testing.assert_close(together.weights[number], alone.weights[0])
        torch.testing.assert_close(together.biases[number], alone.biases[0])
    assert not torch.equal(together.weights[0], together.weights[1])


def test_one_classifier_is_torchs_own_recipe() -> None:
    train = blobs(200, 1)
    x = (train.vectors - train.vectors.mean(0)) / train.vectors.std(0)
    layer = torch.nn.Linear(16, 5)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    batches = shuffled(x, train.labels, train.rows, 50, 3)
    for epoch in range(3):
        for part, labels in batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(layer(part), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    ours = fitted(train.vectors, 5, [0.1], shuffled(train.vectors, train.labels, train.rows, 50, 3), 3, 4)
    torch.testing.assert_close(ours.weights[0], layer.weight, atol=1e-5, rtol=1e-4)


def test_a_feature_that_never_changes_is_no_fault() -> None:
    train, test = (replace(b, vectors=torch.cat([b.vectors, torch.ones(len(b.labels), 1)], 1)) for b in
                   (blobs(300, 1), blobs(200, 2)))  # fmt: skip
    assert dict(linear(bench_of(train, test), epochs=10))["linear_top1"] > 0.5


SETTINGS: dict[str, dict[str, Any]] = {
    "knn": {},
    "linear": {"epochs": 3},
    "linear augmented": {"epochs": 2, "augment": True, "rates": [1e-3, 1e-1], "batch_size": 32},
    "logistic": {"strengths": [1e-3, 1.0], "iterations": 50},
    "finetune": {"epochs": 2, "batch_size": 32, "fractions": [0.5, 1.0]},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_shuffled_test_labels_change_nothing_but_the_score(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(shuffle: bool) -> tuple[list[torch.Tensor], dict[str, float]]:
        bench, seen = small_bench(), []
        if shuffle:
            labels = bench.sources[1].labels
            assert labels is not None
            bench.sources[1].labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(5))]
        score = bench.score

        def scored(predictions: torch.Tensor, labels: torch.Tensor) -> tuple[str, float]:
            seen.append(predictions)
            return score(predictions, labels)

        monkeypatch.setattr(bench, "score", scored)
        return seen, dict(protocols.find(name.partition(" ")[0])(bench, **SETTINGS[name]))

    (predictions, figures), (again, shuffled_figures) = outcome(False), outcome(True)
    assert len(predictions) == (2 if name == "finetune" else 1)
    for one, other in zip(predictions, again, strict=True):
        assert torch.equal(one, other)
    chosen = {key: value for key, value in figures.items() if key.endswith(protocols.CHOSEN)}
    assert chosen == {key: shuffled_figures[key] for key in chosen}
    assert bool(chosen) == name.startswith(("linear", "logistic"))
    assert figures != shuffled_figures


def test_a_single_rate_is_taken_as_it_is() -> None:
    figures = dict(linear(bench_of(blobs(200, 1), blobs(100, 2)), rates=[0.02], epochs=2))
    assert figures["linear_rate"] == 0.02


def test_augmented_crops_differ_from_epoch_to_epoch_and_not_by_workers() -> None:
    from hardviews.data.loading.loader import Loader
    from hardviews.evaluation.protocols.linear import augmented

    def epochs(workers: int) -> Iterator[torch.Tensor]:
        bench = small_bench(train=64)
        source = bench.sources[0]
        loader = Loader(source, 32, 0, workers=workers, in_memory=False)
        batches = augmented(bench, loader, bench.labels[0])
        for epoch in range(2):
            parts = list(batches(epoch))
            assert sorted(torch.cat([labels for _, labels in parts]).tolist()) == sorted(bench.labels[0].tolist())
            yield torch.cat([features for features, _ in parts])

    first, second = epochs(0)
    assert not torch.allclose(first.mean(0), second.mean(0), atol=1e-4)
    for ours, theirs in zip((first, second), epochs(1), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("wrong", [{"rates": []}, {"rates": [0.0]}, {"epochs": 0}, {"batch_size": 0}])
def test_wrong_settings_of_linear_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        list(linear(bench_of(blobs(20, 1), blobs(20, 2)), **wrong))


def test_data_without_labels_is_named() -> None:
    bench = small_bench()
    bench.sources[0].labels = None
    with pytest.raises(InputError, match="has no labels"):
        list(linear(bench))


@pytest.mark.skipif(not PACK.exists(), reason="the CIFAR-10 pack is not here")
def test_linear_is_at_most_a_point_below_logistic_on_photographs() -> None:
    """Of a network with random weights; of trained ones see RESULTS.md."""
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", 32, channels=[16, 32, 64, 64], layers=[1, 1, 1, 1])
    parts = [
        Subset(Table([PACK / f"cifar10-jpeg-{split}.parquet"], split), torch.arange(0, 10000, step))
        for split, step in (("train", 3), ("test", 4))
    ]
    bench = Bench(backbone, "cifar", lambda: (parts[0], parts[1]), READY)
    found = dict(linear(bench)) | dict(logistic(bench))
    assert found["linear_top1"] > found["logistic_top1"] - 0.01
    assert found["logistic_top1"] > 0.25


@pytest.mark.parametrize("protocol", [linear, logistic])
@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3]])
def test_too_little_to_choose_by_is_named(protocol: Any, labels: list[int]) -> None:
    train = replace(blobs(4, 1), labels=torch.tensor(labels))
    with pytest.raises(InputError, match="at least two classes"):
        list(protocol(bench_of(train, train)))


def test_a_class_of_one_image_is_fitted_on() -> None:
    fit, choose = tuning_rows(torch.tensor([0] * 10 + [1]), 0)
    assert 10 in fit.tolist()
    assert len(choose) == 1


@pytest.mark.parametrize(
    ("grid", "scores", "best", "said"),
    [
        ([0.1, 0.01, 1.0], [0.5, 0.4, 0.6], 1.0, "linear: the best, 1, is the largest of --linear.rates: larger ones"),
        ([0.1, 0.01, 1.0], [0.5, 0.7, 0.6], 0.01, "linear: the best, 0.01, is the smallest of --linear.rates: smaller"),
        ([0.1, 0.01, 1.0], [0.8, 0.7, 0.6], 0.1, ""),
        ([0.1, 0.01, 1.0], [0.6, 0.4, 0.6], 1.0, ""),  # no better than what lies beside it
    ],
)
def test_a_choice_at_the_edge_of_its_grid_is_said(
    grid: list[float], scores: list[float], best: float, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_edge("linear", "rates", grid, scores, best)
    assert caplog.text.count("may do better") == bool(said)
    assert said in caplog.text
