"""Maps, neighbours and attention of a page agree with scikit-learn and with counting."""

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from hardviews.analysis.embedding import NEAREST, Inspection, components, described, heated, nearest, seen, unit_rows


def inspection(count: int = 40, classes: int = 4) -> Inspection:
    generator = np.random.default_rng(0)
    labels = np.arange(count) % classes
    after = generator.normal(size=(count, 8)) + 4 * np.eye(8)[labels % 8]
    return Inspection(
        names=[f"{index}.png" for index in range(count)], labels=labels, class_names=list("abcdefghijkl")[:classes],
        pictures=[Image.new("RGB", (32, 32), (index, 0, 0)) for index in range(count)],
        before=generator.normal(size=(count, 8)), after=after, attention_before=None,
        attention_after=generator.random((2, 4, 4)), of=100,
    )  # fmt: skip


def test_the_map_is_pca() -> None:
    features = np.random.default_rng(0).normal(size=(30, 6)) * [5, 3, 1, 1, 1, 1]
    places, share = components(features)
    oracle = PCA(2, svd_solver="full").fit(features)
    assert np.abs(places) == pytest.approx(np.abs(oracle.transform(features)))
    assert share == pytest.approx(oracle.explained_variance_ratio_.sum())
    assert (places[np.abs(places).argmax(0), [0, 1]] > 0).all()
    assert components(np.ones((5, 3)))[1] == 0  # a collapsed network
    assert components(np.ones((5, 1)))[0].shape == (5, 2)


def test_neighbours_are_the_most_similar_others() -> None:
    features = unit_rows(np.random.default_rng(1).normal(size=(12, 4)))
    found = nearest(features)
    for row in range(12):
        others = sorted((index for index in range(12) if index != row), key=lambda one: -features[row] @ features[one])
        assert found[row].tolist() == others[:NEAREST]


def test_shares_of_the_same_class_are_counted() -> None:
    one = inspection()
    assert one.labels is not None
    shown = seen("run", one)
    near = nearest(unit_rows(one.after))
    share = np.mean([one.labels[other] == one.labels[row] for row in range(40) for other in near[row]])
    assert dict(shown.same)["after training"] == pytest.approx(share)
    assert dict(shown.same)["by chance"] == pytest.approx(9 / 39)
    assert dict(shown.same)["after training"] > 0.9 > dict(shown.same)["before training"]
    assert "by chance 23.1%" in described(shown.same)
    marks = [neighbour.same for row in shown.neighbours for neighbour in row.after]
    assert len(marks) == 4 * NEAREST  # a picture of every class
    assert shown.words == "40 of the 100 training pictures"
    assert [len(one.thumbnails) for one in shown.maps] == [40, 40]


def test_thumbnails_do_not_cover_each_other() -> None:
    for one in seen("run", inspection(300)).maps:
        corners = [(shown.x, shown.y) for shown in one.thumbnails if shown.data]
        assert len(corners) > 10
        for place, (x, y) in enumerate(corners):
            assert all(abs(x - a) > 7.5 or abs(y - b) > 7.5 for a, b in corners[:place])
            assert 0 <= x <= 92.5
            assert 0 <= y <= 68.5


def test_what_could_not_be_made_is_said() -> None:
    assert seen("run", "the data is gone").notes == ["No map, neighbours or attention maps: the data is gone."]
    one = inspection()
    one.after[3] = np.nan
    shown = seen("run", one)
    assert shown.notes == ["Features after training are not finite."]
    assert [found.title for found in shown.maps] == ["Before training"]
    many = seen("run", inspection(60, 12))
    assert len(many.colours) == 8  # seven classes, and the others in grey
    assert many.colours[-1] == ("other classes", "muted")


def test_heat_is_where_attention_is() -> None:
    attention = np.zeros((4, 4))
    attention[0, 3] = 1
    pixels = np.asarray(heated(Image.new("RGB", (32, 32)), attention)).sum(-1)
    assert pixels[:24, 72:].mean() > 3 * pixels[48:, :48].mean()
