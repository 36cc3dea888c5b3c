"""HEIC and Zarr as their libraries write them, and formats whose library is not installed."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hardviews.data.loading.loader import Loader
from hardviews.data.reading.decode import Bounds, Part, UnreadableImage, Window, decode, extent_of
from hardviews.data.reading.formats import table
from hardviews.data.sources import open_source
from hardviews.views.pixels import Pixels
from tests.data.pixels import STORED, numbers, ramps, shift


class TestHeic:
    def test_pictures(self) -> None:
        library: Any = pytest.importorskip("pillow_heif", reason="needs the extra heic")
        smooth = Image.fromarray(ramps())
        whole = io.BytesIO()
        library.from_pillow(smooth).save(whole, quality=90)
        found = decode(whole.getvalue(), STORED)
        assert found.shape == (48, 64, 3)
        assert torch.equal(found, decode(whole.getvalue()))
        assert np.abs(shift(found) - np.asarray(smooth)).mean() < 4
        assert extent_of(whole.getvalue()) == (1, 48, 64)
        transparent = smooth.copy()
        transparent.putalpha(0)
        whole = io.BytesIO()
        library.from_pillow(transparent).save(whole, quality=90)
        assert set(decode(whole.getvalue(), STORED).flatten().tolist()) == {255}
        deep = (np.asarray(smooth).astype(np.uint16) << 8) + 128
        whole = io.BytesIO()
        library.from_bytes("RGB;16", (64, 48), deep.tobytes()).save(whole, quality=90)
        found = decode(whole.getvalue(), STORED)
        assert found.dtype == torch.uint16
        assert np.abs(shift(found) - deep).mean() < 4 * 256
        assert np.abs(shift(decode(whole.getvalue())) - np.asarray(smooth)).mean() < 4


class TestZarr:
    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        self.library: Any = pytest.importorskip("zarr", reason="needs the extra zarr")

    @pytest.mark.parametrize("version", [2, 3])
    def test_arrays_and_windows(self, version: int, tmp_path: Path) -> None:
        array = numbers("uint16", 3, 4, 50, 70)
        options = {"chunks": (1, 1, 16, 16), "dtype": array.dtype, "zarr_format": version}
        self.library.create_array(store=str(tmp_path / "a.zarr"), shape=array.shape, **options)[:] = array
        assert extent_of(str(tmp_path / "a.zarr")) == (3, 50, 70)
        window = decode(tmp_path / "a.zarr", STORED, part=Part(2, Window(3, 20, 30, 31)))
        assert np.array_equal(window.numpy(), array[2].transpose(1, 2, 0)[3:33, 20:51])
        assert decode(tmp_path / "a.zarr").shape == (50, 70, 3)

    def test_workers_read_after_their_parent_has(self, tmp_path: Path) -> None:
        array = numbers("uint8", 64, 64, 3)
        options = {"chunks": (16, 16, 3), "dtype": array.dtype}
        self.library.create_array(store=str(tmp_path / "a.zarr"), shape=array.shape, **options)[:] = array
        source = open_source(str(tmp_path), tile=16)
        assert np.array_equal(source.read(5).numpy(), array[16:32, 16:32])
        batch = next(Loader(source, 16, 0, workers=2, in_memory=False).batches())
        for row, index in enumerate(batch.index.tolist()):
            y, x = 16 * (index // 4), 16 * (index % 4)
            assert np.array_equal(batch.image(row).permute(1, 2, 0).numpy(), array[y : y + 16, x : x + 16])

    def test_ome_zarr_names_its_axes(self, tmp_path: Path) -> None:
        array = numbers("uint16", 2, 5, 50, 70)
        group = self.library.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
        axes = [{"name": name} for name in "czyx"]
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]}]
        group.create_array("0", shape=array.shape, chunks=(1, 1, 50, 70), dtype=array.dtype)[:] = array
        assert extent_of(str(tmp_path / "a.zarr")) == (5, 50, 70)
        found = decode(tmp_path / "a.zarr", STORED, part=Part(4)).numpy()
        assert np.array_equal(found, array[:, 4].transpose(1, 2, 0))
        for path in ("../b", "/etc"):
            group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": path}]}]
            with pytest.raises(UnreadableImage, match="names an array outside of it"):
                decode(tmp_path / "a.zarr", STORED)

    @pytest.mark.parametrize("where", ["filters", "compressor", "codecs", "sharding"])
    def test_nothing_is_unpickled(self, where: str, tmp_path: Path) -> None:
        folder = tmp_path / "a.zarr"
        folder.mkdir()
        old = {"zarr_format": 2, "shape": [8, 8], "chunks": [8, 8], "dtype": "<u2", "fill_value": 0, "order": "C"}
        grid = {"name": "regular", "configuration": {"chunk_shape": [8, 8]}}
        new = {"zarr_format": 3, "node_type": "array", "data_type": "uint16", "shape": [8, 8], "chunk_grid": grid}
        match where:
            case "filters":
                meta: Any = old | {"compressor": None, "filters": [{"id": "pickle"}]}
            case "compressor":
                meta = old | {"compressor": {"id": "pickle"}, "filters": None}
            case "codecs":
                meta = new | {"codecs": [{"name": "bytes"}, {"name": "numcodecs.pickle"}]}
            case _:
                inner = {"codecs": [{"name": "bytes"}, "pickle"], "index_codecs": [], "chunk_shape": [4, 4]}
                sharded = {"name": "sharding_indexed", "configuration": inner}
                meta = new | {"codecs": [sharded]}
        (folder / ("zarr.json" if "node_type" in meta else ".zarray")).write_text(json.dumps(meta))
        with pytest.raises(UnreadableImage, match=r"codec '(numcodecs\.)?pickle' is not read"):
            decode(folder, STORED)


@pytest.mark.parametrize(
    ("data", "extra"),
    [
        (b"\0" * 128 + b"DICM", "dicom"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heic"),
        ("a.zarr", "zarr"),
    ],
)
def test_a_format_that_needs_an_extra_says_which(
    data: bytes | str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(table, "installed", lambda module: not module)
    if isinstance(data, str):
        (tmp_path / data).mkdir()
    for form in (None, Pixels()):
        with pytest.raises(UnreadableImage, match=rf"needs \w+: pip install 'hardviews\[{extra}\]'"):
            decode(data if isinstance(data, bytes) else str(tmp_path / data), Bounds(form=form))
