"""What two configurations differ in is said as a user would type it, with both values."""

from typing import Any

import pytest

from hardviews.training.output.differences import NAMED, differences, differences_text

CONFIG: dict[str, Any] = {
    "data": "pictures",
    "method": {"name": "simsiam", "dim": 16, "predictor_dim": 8},
    "plan": {},
    "backbone": {"name": "resnet18", "stem": "auto", "keywords": {"channels": [8, 8], "act_layer": "relu"}},
    "image_size": 32,
    "mean": [0.1, 0.2, 0.3],
    "decay_bias_and_norm": True,
    "clip": None,
    "workers": 2,
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_size": 64}, "--image-size is 32 there and 64 here"),
        ({"mean": [0.1, 0.2, 0.4]}, "--mean is 0.1,0.2,0.3 there and 0.1,0.2,0.4 here"),
        ({"decay_bias_and_norm": False}, "--decay-bias-and-norm is true there and false here"),
        ({"clip": 3.0}, "--clip is not given there and 3.0 here"),
        (
            {"method": {"name": "simsiam", "dim": 16, "predictor_dim": 4}},
            "--method.predictor-dim is 8 there and 4 here",
        ),
        ({"method": CONFIG["method"] | {"name": "byol"}}, "--method is simsiam there and byol here"),
        ({"plan": {"scale": [0.2, 1]}}, "--plan.scale is not given there and 0.2,1 here"),
        (
            {"backbone": {"name": "resnet18", "stem": "auto", "keywords": {"channels": [8, 16], "act_layer": "relu"}}},
            "--backbone.channels is 8,8 there and 8,16 here",
        ),
        (
            {"backbone": {"name": "resnet18", "stem": "cifar", "keywords": {"channels": [8, 8]}}},
            "--backbone.stem is auto there and cifar here, --backbone.act_layer is relu there and not given here",
        ),
        ({"image_size": "32"}, "--image-size is 32 there and '32' here"),
        ({"data": "pictures/" + 60 * "x"}, f"--data is pictures there and pictures/{60 * 'x'} here"),
        ({"new": 1}, "--new is not given there and 1 here"),
        ({"new": None, "workers": 8}, ""),
    ],
)
def test_settings_are_named_as_they_are_typed(change: dict[str, Any], said: str) -> None:
    assert differences_text(differences(CONFIG, CONFIG | change, free={"workers"})) == said
    halves = [(found.there, found.here) for found in differences(CONFIG, CONFIG | change)]
    assert all(there != here for there, here in halves)


def test_what_the_user_sets_comes_first_and_the_rest_is_counted() -> None:
    first = dict.fromkeys("data method lr a b c d e".split(), 0)  # noqa: SIM905
    found = differences(first, dict.fromkeys(first, 1))
    assert [one.option for one in found[:3]] == ["--data", "--method", "--lr"]
    assert differences_text(found).count("there") == NAMED
    assert differences_text(found).endswith("--b is 0 there and 1 here, and 3 more")


def test_older_configurations_lack_what_is_new() -> None:
    older = {key: value for key, value in CONFIG.items() if key != "image_size"}
    assert differences_text(differences(older, CONFIG)) == "--image-size is not given there and 32 here"
    assert not differences({key: value for key, value in CONFIG.items() if key not in ("plan", "clip")}, CONFIG)
