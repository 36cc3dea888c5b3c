"""JPEGs without their end: what is shown of them, how much that is, and where it is said."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hardviews.data.loading.in_order import in_order
from hardviews.data.loading.loader import Loader
from hardviews.data.loading.stream_batches import Decoding
from hardviews.data.reading.cut_short import said_of, shown
from hardviews.data.reading.decode import Bounds, UnreadableImage, decode
from hardviews.data.sources.folder import Folder
from hardviews.data.sources.streams import Encoded

KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "without subsampling": {"subsampling": 0},
    "restarts": {"restart_marker_blocks": 3},
    "progressive": {"progressive": True},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 1},
}


def jpeg(mode: str = "RGB", size: tuple[int, int] = (300, 200), seed: int = 0, **options: Any) -> bytes:
    """Blots in which every block differs from grey."""
    blots = np.random.default_rng(seed).integers(0, 256, (size[1] // 5, size[0] // 5, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC).convert(mode).save(out, "JPEG", quality=85, **options)
    return out.getvalue()


def part_said(picture: torch.Tensor) -> int:
    """In percent."""
    text, _, percent = said_of(picture).partition(", ")
    assert text == "cut short"
    return int(percent.removesuffix(" % shown"))


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_its_last_bytes_all_of_it_is_shown(kind: str, mode: str, missing: int) -> None:
    whole = jpeg(mode, **KINDS[kind])
    for bounds in (Bounds(), Bounds(50)):
        picture = decode(whole[:-missing], bounds)
        assert torch.equal(picture, decode(whole, bounds))
        assert part_said(picture) == 100
    assert not said_of(decode(whole))


@pytest.mark.parametrize("kind", KINDS)
def test_the_part_shown_is_that_of_blocks_as_in_the_whole_picture(kind: str) -> None:
    whole = jpeg(**KINDS[kind])
    expected = decode(whole)
    side = 8 if "progressive" in kind or "without" in kind else 16  # of a block, or of an MCU
    columns, rows = -(-300 // side), -(-200 // side)
    for missing in range(3, len(whole) // 10, len(whole) // 60):
        found = shown(whole[:-missing])
        assert found is not None
        differs = (decode(found.data) != expected).any(2)
        # The edges of a block take colour from the next.
        blocks = [
            differs[y * side + 1 : (y + 1) * side - 1, x * side + 1 : (x + 1) * side - 1].any()
            for y in range(rows)
            for x in range(columns)
        ]
        same = next((k for k, block in enumerate(blocks) if block), len(blocks)) / len(blocks)
        assert same <= found.part <= same + 2 / len(blocks), missing  # the block in which it ends, with luck the next


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_where_a_restart_is_due_the_rest_is_missing(mode: str, options: dict[str, Any]) -> None:
    """There a decoder waits for no block but for the marker."""
    whole = jpeg(mode, restart_marker_blocks=7, **options)
    restarts = [at for at in range(len(whole)) if whole[at] == 0xFF and 0xD0 <= whole[at + 1] < 0xD8]
    for at in restarts[-8:]:
        for end in range(at, at + 3):
            found = shown(whole[:end])
            assert found is not None
            assert found.part < 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_which_more_is_missing_is_refused(kind: str) -> None:
    whole = jpeg(**KINDS[kind])
    for missing in range(len(whole) // 2, len(whole) - 2, len(whole) // 40):
        reasons = set()
        for _ in range(2):
            with pytest.raises(UnreadableImage) as caught:
                decode(whole[:-missing])
            reasons.add(caught.value.reason)
        assert len(reasons) == 1


@pytest.mark.parametrize("filling", [b"\0", b"\xff"])
def test_what_was_never_written_is_missing(filling: bytes) -> None:
    """A file of its full size, of which a disk has zeros in place of the end, or flash memory ones."""
    whole = jpeg()
    found = shown(whole[: len(whole) // 2] + filling * (len(whole) // 2))
    assert found is not None
    assert 0.4 < found.part < 0.6
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(whole[: len(whole) // 2] + filling * (len(whole) // 2))
    assert torch.equal(decode(whole[:-2] + filling * 9), decode(whole))


def test_the_least_part_and_the_reason() -> None:
    whole = jpeg()
    part = part_said(decode(whole[: -len(whole) // 20]))
    assert 90 <= part < 100
    with pytest.raises(UnreadableImage, match=f"truncated .*; {part} % can be shown"):
        decode(whole[: -len(whole) // 20], least_shown=1.0)
    with pytest.raises(UnreadableImage, match=r"; 8\d % can be shown"):
        decode(whole[: -len(whole) // 8])


def test_a_scan_that_is_missing_is_no_small_part() -> None:
    """Of a progressive picture, colours and details come in scans of their own."""
    whole = jpeg(progressive=True)
    scans = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for scan in scans:
        assert shown(whole[:scan]) is None
        with pytest.raises(UnreadableImage):
            decode(whole[:scan])


def test_other_formats_and_other_faults_stay_as_they_are() -> None:
    image = Image.open(BytesIO(jpeg()))
    for kind in ("WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"):
        out = BytesIO()
        image.save(out, kind)
        with pytest.raises(UnreadableImage):
            decode(out.getvalue()[:-2])
    with pytest.raises(UnreadableImage, match="not a picture"):
        decode(b"\xff\xd8")
    assert shown(jpeg()) is None
    assert shown(b"") is None


def test_it_is_told_by_every_way_of_loading(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(8):
        data = jpeg(size=(40, 40), seed=number)
        (tmp_path / f"{number}.jpg").write_bytes(data[:-2] if number == 3 else data)
    source, path = Folder(tmp_path), str(tmp_path / "3.jpg")
    for loading in ({}, {"workers": 1}, {"in_memory": True}):
        loader = Loader(source, 8, seed=0, **loading)
        assert sorted(next(loader.batches()).index.tolist()) == list(range(8))
        assert loader.cut_short == {path: "cut short, 100 % shown"}
        assert not loader.unreadable
    encoded = [Encoded(file.read_bytes(), "", number) for number, file in enumerate(sorted(tmp_path.iterdir()))]
    assert Decoding(Bounds())[encoded][1:] == ({}, {3: "cut short, 100 % shown"})
    for _ in range(2):
        assert sum(map(len, in_order(source, 3))) == 8
    (line,) = [record.message for record in caplog.records]  # once
    assert line.endswith(f"1 image lacks its end, such as {path} (cut short, 100 % shown)")
