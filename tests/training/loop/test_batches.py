"""What an adapter sees depends on (seed, step) alone."""

import pytest
import torch

from delora_sd.diffusion.cache import LatentStats
from delora_sd.diffusion.noise.objective import Ddpm
from delora_sd.training.loop.batches import assemble_batch, draw_step, part_of_draw
from delora_sd.training.loop.member import CellData

DDPM = Ddpm(alphas_cumprod=torch.linspace(0.99, 0.01, 1000), prediction_type="epsilon")


def make_cell(num_photos: int, num_class_images: int = 0) -> CellData:
    def stats(count: int) -> LatentStats:
        mean = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 4, 2, 2).clone()
        return LatentStats(mean=mean, std=torch.zeros_like(mean))

    return CellData(
        photos=stats(num_photos),
        captions=({"tokens": torch.zeros(3, 5)},),
        class_images=stats(num_class_images) if num_class_images else None,
        class_caption={"tokens": torch.ones(3, 5)} if num_class_images else None,
    )


def draw(cell: CellData, step: int, batch_size: int = 2, seed: int = 7):
    return draw_step(cell, DDPM, seed=seed, step=step, batch_size=batch_size)


def test_every_epoch_shows_every_photo_once():
    cell = make_cell(5)
    seen = torch.cat([draw(cell, step, batch_size=1).photos for step in range(15)])
    for epoch in seen.split(5):
        assert sorted(epoch.tolist()) == [0, 1, 2, 3, 4]
    assert seen[:5].tolist() != seen[5:10].tolist()


def test_photo_order_does_not_depend_on_the_batch_size():
    cell = make_cell(5)
    one_by_one = [draw(cell, step, batch_size=1).photos.item() for step in range(6)]
    in_threes = torch.cat([draw(cell, step, batch_size=3).photos for step in range(2)]).tolist()
    assert one_by_one == in_threes


def test_a_step_can_be_drawn_without_the_steps_before_it():
    cell = make_cell(4, 6)
    first, again = draw(cell, 123), draw(cell, 123)
    assert torch.equal(first.noise, again.noise) and torch.equal(first.times, again.times)
    assert not torch.equal(first.noise, draw(cell, 124).noise)
    assert not torch.equal(first.noise, draw(cell, 123, seed=8).noise)


def test_latent_noise_is_independent_of_the_target_noise():
    first = draw(make_cell(4), 0, batch_size=64)
    correlation = torch.corrcoef(torch.stack([first.noise.flatten(), first.latent_noise.flatten()]))[0, 1]
    assert abs(correlation) < 0.1


@pytest.mark.parametrize("num_class_images", [0, 6])
def test_shares_of_a_batch_are_the_batch(num_class_images: int):
    cell = make_cell(5, num_class_images)
    whole = draw(cell, 3, batch_size=4)
    parts = [part_of_draw(whole, part=i, num_parts=2) for i in range(2)]
    batches = [assemble_batch([cell], [each], torch.device("cpu")) for each in parts]
    expected = assemble_batch([cell], [whole], torch.device("cpu"))
    order = [0, 1, 4, 5, 2, 3, 6, 7] if num_class_images else [0, 1, 2, 3]
    assert torch.equal(torch.cat([b.latents for b in batches]), expected.latents[order])
    assert torch.equal(torch.cat([b.noise for b in batches]), expected.noise[order])
    assert torch.equal(torch.cat([b.conditions["tokens"] for b in batches]), expected.conditions["tokens"][order])


def test_samples_come_adapter_major_with_instance_before_class_images():
    cells = [make_cell(4, 6), make_cell(5, 3)]
    batch = assemble_batch(cells, [draw(cell, 0) for cell in cells], torch.device("cpu"))
    assert batch.latents.shape == (8, 4, 2, 2)
    assert batch.conditions["tokens"][:, 0, 0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_each_photo_brings_its_caption_and_its_size_and_the_cache_stays_as_it_was():
    cell = make_cell(4, 6)
    captions = tuple({"tokens": torch.full((3, 5), float(i)), "pooled": torch.full((2,), float(i))} for i in range(4))
    sizes = torch.arange(4)[:, None].expand(4, 6)
    photos = LatentStats(mean=cell.photos.mean, std=cell.photos.std, sizes=sizes)
    of_class = LatentStats(mean=cell.class_images.mean, std=cell.class_images.std, sizes=torch.full((6, 6), 9))
    class_caption = {"tokens": torch.full((3, 5), -1.0), "pooled": torch.full((2,), -1.0)}
    cell = CellData(photos=photos, captions=captions, class_images=of_class, class_caption=class_caption)
    for step in range(3):
        chosen = draw(cell, step, batch_size=3)
        conditions = assemble_batch([cell], [chosen], torch.device("cpu")).conditions
        photos_then_class = [*map(float, chosen.photos.tolist()), -1.0, -1.0, -1.0]
        assert conditions["tokens"][:, 0, 0].tolist() == conditions["pooled"][:, 1].tolist() == photos_then_class
        assert conditions["sizes"][:, 5].tolist() == [*chosen.photos.tolist(), 9, 9, 9]
        for value in conditions.values():
            value.mul_(2)  # a script that multiplies its cache in place doubles it at every step
    assert all((caption["tokens"] == i).all() for i, caption in enumerate(captions))


def test_latents_are_sampled_anew_with_the_cached_spread():
    mean, std = torch.full((1, 4, 2, 2), 3.0), torch.full((1, 4, 2, 2), 0.5)
    cell = CellData(
        photos=LatentStats(mean=mean, std=std),
        captions=({"tokens": torch.zeros(3, 5)},),
        class_images=None,
        class_caption=None,
    )
    samples = torch.cat(
        [assemble_batch([cell], [draw(cell, step)], torch.device("cpu")).latents for step in range(400)]
    )
    assert samples.mean().item() == pytest.approx(3.0, abs=0.02)
    assert samples.std().item() == pytest.approx(0.5, abs=0.02)
