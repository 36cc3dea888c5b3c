"""What a sample tells of channels, types and ranges, against numpy by hand."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from torch import Tensor

from hardviews.commands.pretrain import parse
from hardviews.data.reading.decode import Bounds
from hardviews.data.sources import ImageSource, as_source
from hardviews.data.sources.streams import tar_stream
from hardviews.errors import InputError
from hardviews.options.pretraining import PretrainOptions
from hardviews.setup import look as looking
from hardviews.setup.look import COUNTED
from hardviews.setup.pixels import find_pixels, mean_and_std, normalisation, resolve_pixels
from hardviews.setup.value_range import WINDOWS, Limits, is_ct
from hardviews.views.pixels import RGB, Pixels
from tests.data.tars import shards

Array = NDArray[Any]
RANDOM = np.random.default_rng(0)


def images(count: int, channels: int, dtype: str, low: float = 0, high: float = 4096) -> list[Array]:
    values = RANDOM.uniform(low, high, (count, 20, 24, channels))
    return list(values.astype(dtype))


def found(data: Sequence[Array], **options: Any) -> tuple[Pixels, str]:
    form, lines = find_pixels(PretrainOptions(**options), as_source(data))
    return form, "; ".join(lines)


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (images(5, 3, "uint8", high=256), RGB),
        (images(5, 1, "uint8", high=256), RGB),
        (images(5, 3, "uint8", high=256) + images(4, 1, "uint8", high=256), RGB),
        (images(5, 4, "uint8", high=256), Pixels(4, rgb=False)),
        (images(5, 2, "uint8", high=256), Pixels(2, rgb=False)),
    ],
)
def test_eight_bits_of_one_or_three_channels_are_rgb_and_others_as_stored(data: list[Array], form: Pixels) -> None:
    assert found(data)[0] == form


@pytest.mark.parametrize(
    ("channels", "dtype", "low", "high", "rgb"),
    [(1, "uint16", 0, 4096, False), (3, "uint16", 100, 4096, True), (1, "int16", -1000, 2000, False)],
)
def test_the_usual_range_is_of_percentiles(channels: int, dtype: str, low: float, high: float, rgb: bool) -> None:
    data = images(8, channels, dtype, low, high)
    form, said = found(data)
    least, most = np.percentile(np.stack(data), (0.1, 99.9))
    assert (form.channels, form.dtype, form.rgb) == (channels, dtype, rgb)
    assert [*form.low, *form.high] == pytest.approx([least, most], rel=1e-5)
    start = f"{channels} channel{'s' * (channels > 1)} of {dtype} (8 of 8 images looked at); values {form.low[0]:g} to "
    assert said.startswith(start)
    assert said.endswith(" (0.1 and 99.9 percentiles) become 0 to 1; values outside are cut")


def test_other_channels_have_a_range_each_and_one_that_never_varies_is_no_error() -> None:
    data = images(8, 13, "float32", -0.5, 2.0)
    for image in data:
        image[..., 5] = 7
    form, said = found(data)
    every = np.stack(data).reshape(-1, 13)
    assert form.low == pytest.approx(tuple(np.percentile(every, 0.1, axis=0)), rel=1e-4)
    assert form.high[:5] == pytest.approx(tuple(np.percentile(every, 99.9, axis=0))[:5], rel=1e-4)
    assert (form.low[5], form.high[5]) == (7, 8)
    low, high = form.low[0], form.high[0]
    assert f"; each channel's 0.1 and 99.9 percentiles, {low:g} to {high:g} of the first, become 0 to 1" in said
    mean, std = mean_and_std(as_source(data), form)
    assert [mean[5], std[5]] == pytest.approx([0, 1 / 255], rel=1e-3)
    assert min(std) > 0


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ((0, 4095), Pixels(1, "uint16", (0,), (4095,), False)),
        ("lung", Pixels(1, "uint16", (-1350,), (150,), False)),
        ("brain", Pixels(1, "uint16", (0,), (80,), False)),
        ("percentile(1,99)", Pixels(1, "uint16", (0,), (65535,), False, (1, 99))),
    ],
)
def test_ranges_by_number_and_name(given: Any, form: Pixels) -> None:
    assert found(images(3, 1, "uint16"), value_range=given)[0] == form


def test_a_pair_of_each_channel_and_a_range_of_eight_bits() -> None:
    form, _ = found(images(3, 2, "uint16"), value_range=(0, 10, 5, 20))
    assert (form.low, form.high) == ((0, 5), (10, 20))
    form, said = found(images(3, 3, "uint8", high=200), channels="rgb", value_range="auto")
    assert form.converts
    assert 0 <= form.low[0] < 3
    assert 196 < form.high[0] < 200
    assert said.startswith("8-bit RGB (3 of 3 images looked at); values ")
    assert found(images(3, 3, "uint8", high=256), value_range=(0, 255)) == (
        RGB, "8-bit RGB (3 of 3 images looked at); values 0 to 255 become 0 to 1"
    )  # fmt: skip


def test_how_much_a_range_cuts_is_said() -> None:
    data = images(5, 2, "uint16")
    _, said = found(data, value_range=(1000, 3000))
    every = np.stack(data)
    share = ((every < 1000) | (every > 3000)).mean()
    assert said.endswith(f"values 1000 to 3000 become 0 to 1; values outside are cut ({share:.0%} of the sample)")


def test_a_mixed_set_is_of_its_most_frequent_kind() -> None:
    form, said = found(images(5, 1, "uint16") + images(2, 4, "uint16"))
    assert form.channels == 1
    assert said.endswith(
        "; 4 channels of uint16 (2 of 7 images looked at): not of that kind, and counted as unreadable"
    )
    form, said = found(images(5, 3, "uint8", high=256) + images(2, 4, "uint16"))
    assert form == RGB
    assert said == "4 channels of uint16 (2 of 7 images looked at) become 8-bit RGB if they are no arrays"
    form, said = found(images(5, 3, "uint8", high=256) + images(2, 4, "uint16"), channels=4)
    assert (form.channels, form.dtype) == (4, "uint16")
    assert "3 channels of uint8 (5 of 7 images looked at): not of that kind, and counted as unreadable" in said


def test_arrays_of_floats_from_0_to_1_stay_rgb_unless_their_channels_are_asked_for() -> None:
    unit = images(3, 3, "float32", 0, 1)
    assert found(unit) == (RGB, "")
    form, _ = found(unit, channels=3)
    assert (form.dtype, form.rgb) == ("float32", False)
    assert form.high == pytest.approx(tuple(np.percentile(np.stack(unit).reshape(-1, 3), 99.9, axis=0)), rel=1e-4)
    assert found(images(3, 3, "uint8", high=256), channels=3)[0] == Pixels(3, rgb=False)
    assert found(images(3, 1, "float32", 0, 2))[0].dtype == "float32"


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        (images(3, 1, "uint16"), {"channels": 4}, "none of 3 images looked at has 4 (3 have 1 channel of uint16)"),
        (images(3, 1, "uint16"), {"value_range": (1,)}, "value-range: 1 number given; give LOW,HIGH, or a pair"),
        (images(3, 1, "uint16"), {"value_range": (9, 1)}, "value-range: 9,1: give LOW,HIGH, with LOW below HIGH"),
        (images(3, 4, "uint16"), {"value_range": (0, 9, 1, 9)}, "value-range: 2 pairs for 4 channels; give one"),
        (images(3, 1, "uint16"), {"value_range": "lungs"}, "value-range: 'lungs' is none of LOW,HIGH"),
        (images(3, 1, "uint16"), {"value_range": "percentile(99,1)"}, "give two percentiles of 0 to 100, the lower"),
        (images(3, 1, "uint16"), {"channels": 40}, "channels: 40 must be 1 to 32"),
        (images(3, 1, "uint16"), {"channels": 0}, "channels: 0 must be 1 to 32"),
        (images(3, 1, "uint16"), {"value_range": "100"}, "value-range: '100' is none of LOW,HIGH (two numbers), auto"),
        (images(3, 1, "uint16"), {"value_range": "0,nan"}, "value-range: '0,nan' is none of LOW,HIGH (two numbers)"),
        (images(3, 1, "uint16"), {"value_range": (0, math.inf)}, "value-range: 0,inf: give LOW,HIGH, with LOW below"),
    ],
)  # fmt: skip
def test_what_there_is_not_is_one_line(data: list[Array], options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        found(data, **options)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mean_and_std_are_numpys_after_the_range(capsys: pytest.CaptureFixture[str]) -> None:
    data = images(6, 4, "int16", -1000, 1000)
    source = as_source(data)
    options = resolve_pixels(PretrainOptions(value_range=(-500, 700)), source)
    mean, std = normalisation(options, {}, source)
    values = (np.stack(data).reshape(-1, 4).astype(float).clip(-500, 700) + 500) / 1200
    assert mean == pytest.approx(tuple(values.mean(0)), abs=1e-3)
    assert std == pytest.approx(tuple(values.std(0)), abs=1e-3)
    assert "pixels: mean " in capsys.readouterr().err
    # RGB has ImageNet's, unless it is to be measured, or the weights bring theirs.
    rgb, photos = replace(options, pixels=RGB.saved()), as_source(images(3, 3, "uint8", high=256))
    assert normalisation(rgb, {}, photos)[0] == (0.485, 0.456, 0.406)
    assert normalisation(rgb, {"mean": (0.5, 0.5, 0.5)}, photos)[0] == (0.5, 0.5, 0.5)
    measured = normalisation(replace(rgb, mean="auto"), {"mean": (0.5, 0.5, 0.5)}, photos)
    assert measured[0] == pytest.approx((0.5, 0.5, 0.5), abs=0.02)
    assert measured[0] != (0.5, 0.5, 0.5)
    assert measured[1] == (0.229, 0.224, 0.225)
    # Of RGB's weights, mean and std say nothing of four channels.
    assert normalisation(options, {"mean": (0.5, 0.5, 0.5), "std": (1, 1, 1)}, source) == (mean, std)
    known = {"mean": [0.1] * 4, "std": [0.2] * 4, "pixels": options.pixels}
    assert normalisation(options, known, source) == ((0.1,) * 4, (0.2,) * 4)


def test_mean_and_std_take_the_memory_of_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few pixels: all images of 13 bands at once, in float64, took gigabytes."""
    asked: list[int] = []
    levels = Pixels.levels

    def counted(self: Pixels, stored: Tensor, channel: int = -1) -> Tensor:
        asked.append(stored.numel())
        return levels(self, stored, channel)

    monkeypatch.setattr(Pixels, "levels", counted)
    data = [np.zeros((400, 500, 5), "uint16") for _ in range(6)]
    mean_and_std(as_source(data), Pixels(5, "uint16", (0,), (9,), rgb=False))
    assert len(asked) == 6
    assert max(asked) <= 5 * COUNTED


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "mean: 3 numbers for 4 channels; give one for each"),
        ({"std": (1.0, 1.0, 0.0, 1.0)}, "std: [1.0, 1.0, 0.0, 1.0] must be above 0"),
    ],
)
def test_mean_and_std_that_do_not_fit(given: dict[str, Any], says: str) -> None:
    source = as_source(images(3, 4, "uint16"))
    with pytest.raises(InputError) as caught:
        normalisation(resolve_pixels(PretrainOptions(**given), source), {}, source)
    assert str(caught.value) == says


class Counting:
    """Counts what is read."""

    def __init__(self, data: list[Array]) -> None:
        self.data, self.reads = data, 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Array:
        self.reads += 1
        return self.data[index]


def test_a_sample_is_spread_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = [np.full((8, 8, 1), n, np.uint16) for n in range(1000)]
    seen = sorted({int(image.flatten()[0]) for image in looking.look(as_source(data)).images})
    assert len(seen) == looking.IMAGES
    assert (seen[0], seen[-1]) == (0, 999)
    assert max(np.diff(seen)) <= 17
    monkeypatch.setattr(looking, "BYTES", 10 * 128 - 1)
    assert len(looking.look(as_source(data)).images) == 10
    monkeypatch.setattr(looking, "SECONDS", -1.0)
    assert len(looking.look(as_source(data)).images) == 1
    monkeypatch.setenv("RANK", "1")  # of several processes, all look at the same
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert len(looking.look(as_source(data)).images) == 10


def test_few_are_looked_at_where_these_are_of_8_bits() -> None:
    rgb = Counting(images(200, 3, "uint8", high=256))
    source = as_source(rgb, labels=[0] * 200)
    before = rgb.reads
    assert find_pixels(PretrainOptions(), source) == (RGB, [])
    assert rgb.reads == before + looking.FEW
    find_pixels(PretrainOptions(value_range="auto"), source)
    assert rgb.reads == before + looking.FEW + looking.IMAGES


def test_nothing_is_looked_at_where_all_is_known(tmp_path: Path) -> None:
    counting = Counting(images(4, 3, "uint8", high=256))
    source: ImageSource = as_source(counting, labels=[0, 1, 0, 1])
    before = counting.reads
    assert resolve_pixels(PretrainOptions(channels="rgb"), source).pixels == RGB.saved()
    there = Pixels(1, "uint16", (3,), (9,), False)
    assert resolve_pixels(PretrainOptions(pixels=there.saved()), source).pixels == there.saved()
    run = tmp_path / "run"
    run.mkdir()
    config = {"backbone": {"name": "resnet18"}, "mean": [0.25], "std": [0.5], "pixels": there.saved()}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    resumed = resolve_pixels(PretrainOptions(out=str(run)), source)
    assert resumed.pixels == there.saved()
    assert normalisation(resumed, {}, source) == ((0.25,), (0.5,))
    (run / "config.yaml").write_text(yaml.safe_dump({"backbone": {"name": "resnet18"}}))  # of an earlier version
    assert resolve_pixels(PretrainOptions(out=str(run)), source).pixels == RGB.saved()
    assert counting.reads == before


def test_streams_are_rgb_unless_a_number_is_given(tmp_path: Path) -> None:
    (file,) = shards(tmp_path, [6])
    stream = tar_stream(f"pipe:cat {file}", 6, True)
    assert find_pixels(PretrainOptions(), stream) == (RGB, [])
    form, lines = find_pixels(PretrainOptions(channels=3), stream)
    assert form == Pixels(3, rgb=False)
    assert lines[0] == "3 channels of uint8 (6 of 6 images looked at)"


def test_what_another_run_found_holds_until_channels_are_given(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"pixels": Pixels(1, "uint16", (3,), (9,), False).saved()}))
    line = ["--data", "d", "--config", str(file)]
    assert Pixels.from_config(vars(parse(line)[0])).low == (3,)
    assert parse([*line, "--channels", "2"])[0].pixels is None
    assert parse([*line, "--value-range=-5,7"])[0].value_range == (-5, 7)
    assert parse([*line, "--value-range", "percentile(1,99)"])[0].pixels is None


def test_every_window_has_a_name_in_the_help() -> None:
    assert all(name in (PretrainOptions.__doc__ or "") for name in WINDOWS)
    assert Limits.named("bone").numbers == (-500, 1300)


def test_runs_from_before_stay_rgb_where_they_go_on(tmp_path: Path) -> None:
    """Their settings say nothing of pixels; the data, looked at now, would be 16-bit grey."""
    source = as_source([np.full((20, 20, 1), 300 * n, np.uint16) for n in range(8)])
    old = {"method": {"name": "simsiam"}, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "data": "d"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    for line in (f"--config {tmp_path / 'config.yaml'}", f"--extend {tmp_path} --out {tmp_path / 'more'}"):
        options, _ = parse(line.split())
        assert Pixels.from_config({"pixels": resolve_pixels(options, source).pixels}) == RGB
        asked, _ = parse([*line.split(), "--channels", "1"])
        assert asked.pixels is None


def test_another_range_is_measured_anew(tmp_path: Path) -> None:
    run = {"method": {"name": "simsiam"}, "mean": [0.5], "std": [0.2], "data": "d"}
    run["pixels"] = Pixels(1, "uint16", (0.0,), (4095.0,), rgb=False).saved()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(run))
    options, _ = parse(["--config", str(tmp_path / "config.yaml"), "--value-range", "0,65535"])
    assert (options.pixels, options.mean, options.std) == (None, None, None)


@pytest.mark.parametrize(
    ("data", "options", "ct"),
    [
        (images(4, 1, "int16", -1024, 3000), {}, True),
        (images(4, 1, "float32", -3024, 2000), {}, True),
        (images(4, 1, "int16", -100, 3000), {}, False),  # MRI, or a scan that is not rescaled
        (images(4, 1, "int16", -9999, 3000), {}, False),  # heights, with a number for none
        (images(4, 1, "uint16", 0, 4096), {}, False),
        (images(4, 2, "int16", -1024, 3000), {}, False),
        (images(4, 1, "int16", -100, 300), {"value_range": "abdomen"}, True),
        (images(4, 1, "int16", -1024, 3000), {"value_range": "percentile(1,99)"}, False),
    ],
)
def test_ct_is_known_by_its_values(data: list[Array], options: dict[str, Any], ct: bool) -> None:
    assert is_ct(found(data, **options)[0], options.get("value_range")) is ct


def test_a_window_of_ct_is_not_for_eight_bits() -> None:
    with pytest.raises(InputError, match="the lung window is of Hounsfield units"):
        find_pixels(PretrainOptions(value_range="lung"), as_source(images(5, 3, "uint8", high=256)))


def test_normalised_floats_are_refused_unless_they_are_asked_for() -> None:
    random = np.random.default_rng(0)
    source = as_source([random.normal(size=(20, 20, 3)).astype(np.float32) for _ in range(8)])
    with pytest.raises(InputError, match="look normalised: leave Normalize out"):
        find_pixels(PretrainOptions(), source)
    form, _ = find_pixels(PretrainOptions(channels=3), source)
    assert (form.dtype, form.rgb) == ("float32", False)


def test_whole_numbers_of_other_types_become_floats() -> None:
    source = as_source([np.full((20, 20, 5), 1000 * n, np.int32) for n in range(8)])
    form, _ = find_pixels(PretrainOptions(), source)
    assert (form.channels, form.dtype) == (5, "float32")
    assert source.read(3, Bounds(form=form)).unique().tolist() == [3000.0]  # type: ignore[no-untyped-call]
