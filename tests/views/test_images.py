import torch

from hardviews.views.images import ImageBatch


def test_pack_and_read_back(mixed: ImageBatch) -> None:
    pictures = [mixed.image(b).permute(1, 2, 0) for b in range(len(mixed))]
    again = ImageBatch.pack(pictures, [5, 4, 3, 2, 1, 0])
    assert torch.equal(again.pixels, mixed.pixels)
    assert again.index.tolist() == [5, 4, 3, 2, 1, 0]
    assert not again.uniform
    part = again[2:5]
    assert part.index.tolist() == [3, 2, 1]
    for b in range(3):
        assert torch.equal(part.image(b), mixed.image(2 + b))
    assert len(again[4:2]) == 0


def test_padded_holds_every_image_at_the_top_left(mixed: ImageBatch, device: str) -> None:
    padded = mixed.to(device).padded().cpu()
    assert padded.shape == (len(mixed), 3, *mixed.size.amax(0).tolist())
    for b, (height, width) in enumerate(mixed.size.tolist()):
        assert torch.equal(padded[b, :, :height, :width], mixed.image(b))
        assert (padded[b, :, height:] == padded[b, :, height - 1 : height]).all()
        assert (padded[b, :, :, width:] == padded[b, :, :, width - 1 : width]).all()


def test_padded_is_no_copy_where_sizes_are_equal(mixed: ImageBatch) -> None:
    one = mixed[1:2]
    assert one.padded().data_ptr() == one.pixels.data_ptr()
