"""``--plan.gain`` and the like, of every method, and what is left out of images that are not RGB."""

from typing import Any

import numpy as np
import pytest

from hardviews import methods
from hardviews.commands.pretrain import parse
from hardviews.data.sources import as_source
from hardviews.data.sources.shapes import Shapes
from hardviews.errors import InputError
from hardviews.methods.simsiam import SimSiam
from hardviews.setup.defaults import resolve_defaults
from hardviews.setup.tones import left_out, of_the_method, with_tones
from hardviews.views.plan import Photometric, Slot, ViewPlan

TINY = "--backbone resnet18 --backbone.channels 8,8,8,8 --backbone.layers 1,1,1,1 --image-size 32 --accelerator cpu"
GIVEN = "--plan.gain 0.3 --plan.offset 0.1 --plan.gamma 0.2 --plan.tone-p 0.5 --plan.drop-p 0.25"


@pytest.mark.parametrize("method", methods.names())
def test_every_method_takes_them(method: str) -> None:
    line = f"--data shapes:32 --method {method} {GIVEN}"
    plan = parse(line.split())[0].plan
    assert [plan[name] for name in ("gain", "offset", "gamma", "tone_p", "drop_p")] == [0.3, 0.1, 0.2, 0.5, 0.25]
    default = methods.find(method).default_plan
    drawn = of_the_method(plan, default)
    for slot in with_tones(default(32, **drawn), plan, drawn).slots:
        look = slot.photometric
        assert (look.gain, look.offset, look.gamma, look.tone_p, look.drop_p) == (0.3, 0.1, 0.2, 0.5, 0.25)


def test_without_them_plans_are_what_they_were_and_nothing_is_written() -> None:
    options, _ = parse(f"--data shapes:32 --method simsiam {TINY}".split())
    assert not {"gain", "tone_p", "drop_p"} & options.plan.keys()
    resolved, method = resolve_defaults(options, Shapes(count=32))
    assert method.plan == SimSiam.default_plan(32)
    assert resolved.plan == options.plan


def test_a_run_draws_them() -> None:
    options, _ = parse(f"--data shapes:32 --method simsiam {TINY} {GIVEN}".split())
    _, method = resolve_defaults(options, Shapes(count=32))
    assert method.plan.tones
    assert method.plan.slots[0].photometric.saturation == 0.4


def test_an_argument_of_the_method_itself_is_the_methods() -> None:
    def default_plan(size: int, gain: float = 1.0) -> ViewPlan:
        return ViewPlan((Slot(size=size, photometric=Photometric(gain=2 * gain)),))

    drawn = of_the_method({"gain": 0.2, "offset": 0.1}, default_plan)
    assert drawn == {"gain": 0.2}
    look = with_tones(default_plan(8, **drawn), {"gain": 0.2, "offset": 0.1}, drawn).slots[0].photometric
    assert (look.gain, look.offset) == (0.4, 0.1)


def test_what_only_rgb_has_is_left_out_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    data: Any = list(np.random.default_rng(0).integers(0, 4096, (32, 32, 32, 4)).astype(np.uint16))
    options, _ = parse(f"--data d --method simsiam {TINY} --plan.gain 0.3".split())
    resolved, method = resolve_defaults(options, as_source(data))
    said = capsys.readouterr().err
    assert said.count("views: saturation, hue and grey are left out, which only RGB has; --plan.gain") == 1
    assert (method.plan.channels, method.plan.rgb, resolved.mean) == (4, False, method.plan.mean)
    look = method.plan.slots[0].photometric
    assert (look.brightness, look.contrast, look.saturation, look.hue, look.grey_p, look.gain) == (
        0.4,
        0.4,
        0,
        0,
        0,
        0.3,
    )
    assert left_out(method.plan, rgb=False) == left_out(SimSiam.default_plan(32), rgb=True) == ""
    only = ViewPlan((Slot(photometric=Photometric(solarize_p=0.2)),))
    assert left_out(only, rgb=False).startswith("views: solarize is left out, which only RGB has")
    assert not left_out(only, rgb=False, recipe="multispectral")  # whose images are known to be no RGB


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--plan.drop-p 1", "drop_p is a probability, 0 to below 1, not 1.0"),
        ("--plan.gain -1", "gain can't be negative, got -1.0"),
        ("--plan.gain 0.1 --plan.transform torchvision.transforms.v2:Identity", "plan.gain: --plan.transform takes"),
        ("--show-channels 4", "show-channels: 4: give one or three of the channels 1 to 3"),
        ("--show-channels 1,2", "show-channels: 1,2: give one or three of the channels 1 to 3"),
    ],
)
def test_what_can_not_be_is_one_line(line: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_defaults(parse(f"--data shapes:32 --method simsiam {TINY} {line}".split())[0], Shapes(count=32))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
