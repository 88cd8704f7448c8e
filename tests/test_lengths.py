"Batches of one length: less padding, every sample once, the same order when resumed."
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from test_trainer import CAPABILITIES, DistillationConfig, DistillationTrainer, assert_same, lines, make, state, tiny
from toys import ToyBatch, samples

from drivekd.data.images import ImageRef
from drivekd.distill.lengths import LengthBuckets, padded_tokens, token_counts

LENGTHS = [12 + 7 * i % 29 for i in range(22)]


def uneven() -> list[SimpleNamespace]:
    "Samples of many lengths; ids are their numbers."
    return [SimpleNamespace(id=str(i), tokens=samples(i + 1, length=n)[i].tokens, capability=CAPABILITIES[i % 3]) for i, n in enumerate(LENGTHS)]


def collate(chosen):
    "Samples -> padded batch; the last three tokens are the answer."
    rows = [torch.tensor(s.tokens) for s in chosen]
    pad = lambda rows, value: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
    ids, mask = pad(rows, 0), pad([torch.ones_like(row) for row in rows], 0)
    places = torch.arange(ids.shape[1]).expand_as(ids)
    SEEN.append((tuple(ids.shape), [s.id for s in chosen]))
    return ToyBatch(input_ids=ids, picture_inputs={}, attention_mask=mask, vision_mask=(places > 0) & (places < 5),
                    labels=torch.where((places >= mask.sum(1, keepdim=True) - 3) & mask.bool(), ids, -100),
                    capabilities=[s.capability for s in chosen], ids=[s.id for s in chosen])


SEEN: list = []  # what the collator was asked for: (shape, ids)


def trainer(folder, strategy="group_by_length", **options):
    "A trainer on samples of many lengths."
    args = dict(max_steps=12, learning_rate=3e-3, per_device_train_batch_size=2, gradient_accumulation_steps=2, use_cpu=True, save_strategy="no",
                disable_tqdm=True, max_grad_norm=0.0, train_sampling_strategy=strategy) | options
    teachers = {c: tiny(6, 4, seed=1 + i) for i, c in enumerate(CAPABILITIES)}
    return DistillationTrainer(tiny(dropout=0.1), teachers, DistillationConfig(output_dir=str(folder), **args), uneven(), collate, LENGTHS)


def epochs(folder, strategy, count=2):
    "Batches of some epochs: shape and ids of each."
    run = trainer(folder, strategy)
    loader = run.get_train_dataloader()
    SEEN.clear()
    found = []
    for epoch in range(count):
        loader.set_epoch(epoch)
        for _ in loader: pass
        found.append(SEEN.copy())
        SEEN.clear()
    return found


def test_batches_hold_less_padding_and_every_sample_once_per_epoch(tmp_path):
    by_length, by_chance = epochs(tmp_path, "group_by_length"), epochs(tmp_path, "random")
    for grouped, random in zip(by_length, by_chance, strict=True):
        for batches in (grouped, random): assert sorted(int(i) for _, ids in batches for i in ids) == list(range(len(LENGTHS)))
        real, tokens, wasted = sum(LENGTHS), *(sum(b * t for (b, t), _ in batches) for batches in (grouped, random))
        assert tokens - real < (wasted - real) / 3
        assert max(t for (_, t), _ in grouped[:2]) == max(t for (_, t), _ in grouped[:10])  # the longest whole window is the first
    assert by_length[0] != by_length[1]


@pytest.mark.parametrize("step", [3, 8])  # within the first and the second epoch, of 5.5 windows
def test_a_resumed_run_meets_the_same_batches_and_ends_in_the_same_bits(tmp_path, step):
    saving = dict(save_strategy="steps", save_steps=1)
    whole = trainer(tmp_path, **saving)
    whole.train()
    record = lines(tmp_path)
    resumed = trainer(tmp_path, **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert_same(state(whole), state(resumed), rtol=0, atol=0)
    assert lines(tmp_path) == record and record[-1]["step"] == 12


@pytest.mark.parametrize("size, accumulation", [(4, 1), (1, 4)])
def test_the_samples_of_a_step_do_not_depend_on_how_it_is_cut(tmp_path, size, accumulation):
    def windows(**options):
        order = list(trainer(tmp_path, **options)._get_train_sampler())
        return [set(order[i:i + 4]) for i in range(0, len(order), 4)]
    assert windows() == windows(per_device_train_batch_size=size, gradient_accumulation_steps=accumulation)


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch, state=0):
        torch.manual_seed(state)
        sampler = LengthBuckets(LENGTHS, 4, seed)
        sampler.set_epoch(epoch)
        return list(sampler)
    assert order(0, 1) == order(0, 1, state=1) != order(0, 2) != order(1, 2)


def test_padding_is_counted():
    assert padded_tokens([5, 90, 5, 90], [0, 1, 2, 3], 2) == 360 and padded_tokens([5, 90, 5], [0, 2, 1], 2) == 100


def test_grouping_without_lengths_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match="needs the length of each of the 12 samples, found 0: pass lengths"):
        make(tmp_path, train_sampling_strategy="group_by_length")


def test_the_estimate_of_memory_takes_the_longest_samples(tmp_path):
    assert f"Memory of a step with 2 × {max(LENGTHS)} tokens" in trainer(tmp_path)._memory()


@pytest.mark.parametrize("crop", [False, True])
def test_lengths_are_those_of_the_encoded_samples_for_pictures_of_one_tile_and_of_many(tmp_path, crop):
    from drivekd.data.formats import PLACEHOLDER, Turn
    from drivekd.data.records import VQARecord
    from drivekd.models.batching import Batcher
    from drivekd.models.families import InternVL
    from drivekd.models.loading import VLM
    from drivekd.models.miniature import build_miniature, build_processor, train_tokenizer
    def record(i, shape):
        Image.new("RGB", shape).save(tmp_path / f"{i}.png")
        turns = (Turn("user", f"{PLACEHOLDER}What is ahead{' now' * i}?"), Turn("assistant", "A car."))
        return VQARecord(str(i), (ImageRef(None, tmp_path / f"{i}.png", root=tmp_path),), turns, None, (), "drivelm", i)
    records = [record(i, shape) for i, shape in enumerate([(60, 60), (500, 120), (320, 400), (1600, 900)])]
    processor = build_processor(train_tokenizer([t.text for r in records for t in r.turns], vocab_size=300))
    processor.image_processor.crop_to_patches = crop
    batcher = Batcher(VLM(build_miniature(processor, "student"), processor, InternVL()))
    found = token_counts(records, batcher)
    assert found == [len(batcher.encode(r).input_ids) for r in records]
    assert (len(set(found)) == len(found)) and (max(found) - min(found) > 64) == crop
