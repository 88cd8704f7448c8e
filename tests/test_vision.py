"What a frozen tower sees is computed once, and is what it would have seen."
from dataclasses import replace

import pytest
import torch

from drivekd.data.records import read_records
from drivekd.data.world import write_world
from drivekd.distill.capabilities import PRESETS
from drivekd.distill.teachers import Teachers
from drivekd.models.batching import Batcher
from drivekd.models.families import InternVL
from drivekd.models.loading import VLM, freeze
from drivekd.models.miniature import build_miniature
from drivekd.models.vision import VisionCache

ROOM = 64 * 64 * 4  # bytes of one picture's features in the miniature student


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    "Questions about six cameras, two at least about the same frame."
    path = write_world(tmp_path_factory.mktemp("data") / "world", frames=2, size=(160, 90), progress=False)
    return [r for r in read_records(path) if len(r.images) == 6][:3]


@pytest.fixture
def vlm(processor):
    model = VLM(build_miniature(processor, "student"), processor, InternVL())
    freeze(model, "vision")
    return model


@pytest.fixture
def batch(vlm, records): return Batcher(vlm)(records[:2])


def towers(vlm): return vlm.family.vision_modules(vlm.model)


def counted(vlm):
    "How many pictures each pass of the tower looks at."
    seen = []
    towers(vlm)[0].register_forward_pre_hook(lambda m, args, kwargs: seen.append(len((args or tuple(kwargs.values()))[0])), with_kwargs=True)
    return seen


def gradients(vlm, inputs, labels):
    loss = vlm.model(**inputs, labels=labels).loss
    loss.backward()
    grads = {n: p.grad for n, p in vlm.model.named_parameters() if p.grad is not None}
    vlm.model.zero_grad()
    return loss, grads


def seen(inputs): return inputs["mm_encoder_outputs"]["image"].pooler_output


def test_features_are_those_of_the_tower_alone_bit_for_bit_and_of_the_whole_batch_up_to_rounding(vlm, batch):
    cached = seen(VisionCache(vlm, 1).inputs(batch))
    with torch.no_grad():
        alone = torch.cat([vlm.family.vision_tokens(vlm.model, picture) for e in batch.encoded for picture in e.pictures])
        together = vlm.family.vision_tokens(vlm.model, batch.picture_inputs)
    assert torch.equal(cached, alone)
    torch.testing.assert_close(cached, together)


def test_features_do_not_depend_on_which_batch_a_picture_came_by_first(vlm, records):
    batcher = Batcher(vlm)
    whole, later = VisionCache(vlm, 1), VisionCache(vlm, 1)
    for part in (records[:1], records): expected = whole.inputs(batcher(part))
    assert torch.equal(seen(expected), seen(later.inputs(batcher(records))))


def test_the_student_learns_the_same_with_and_without(vlm, batch):
    cache = VisionCache(vlm, 1)
    cache.inputs(batch)
    loss, plain = gradients(vlm, batch.model_inputs(), batch.labels)
    again, cached = gradients(vlm, cache.inputs(batch), batch.labels)
    torch.testing.assert_close(loss, again)
    assert plain.keys() == cached.keys() and all("language_model" in n for n in plain)
    for name in plain: torch.testing.assert_close(plain[name], cached[name], rtol=1e-4, atol=1e-6)


def test_each_picture_is_computed_once(vlm, batch):
    passes, cache = counted(vlm), VisionCache(vlm, 1)
    for _ in range(3): cache.inputs(batch)
    assert passes == [1] * len(set(batch.digests)) and cache.misses == len(passes) and cache.hits == 3 * len(batch.digests) - cache.misses


def test_memory_is_bounded_and_what_does_not_fit_is_still_right(vlm, batch):
    small, large = VisionCache(vlm, 2.5 * ROOM / 1e9), VisionCache(vlm, 1)
    for _ in range(2): assert torch.equal(seen(small.inputs(batch)), seen(large.inputs(batch)))
    assert small.bytes == sum(x.nbytes for x in small.kept.values()) == 2 * ROOM and len(small.kept) == 2


def test_another_run_reads_the_folder_and_another_tower_does_not(vlm, batch, processor, tmp_path):
    first = seen(VisionCache(vlm, folder=tmp_path).inputs(batch))
    passes, again = counted(vlm), VisionCache(vlm, folder=tmp_path)
    assert torch.equal(seen(again.inputs(batch)), first) and passes == [] and again.bytes == 0
    other = VLM(build_miniature(processor, "student", seed=1), processor, InternVL())
    freeze(other, "vision")
    elsewhere = VisionCache(other, folder=tmp_path)
    assert not torch.equal(seen(elsewhere.inputs(batch)), first) and elsewhere.misses == len(set(batch.digests))


@pytest.mark.parametrize("write", [lambda w: w.add_(1), lambda w: w.copy_(w + 1), lambda w: w.fill_(7)])
def test_a_tower_whose_weights_changed_is_refused(vlm, batch, write):
    cache = VisionCache(vlm, 1)
    cache.inputs(batch)
    with torch.no_grad(): write(next(towers(vlm)[0].parameters()))
    for _ in range(2):
        with pytest.raises(ValueError, match="weights have changed since the first picture: make a new VisionCache"): cache.inputs(batch)


def test_loading_the_same_weights_again_changes_nothing_and_other_weights_before_the_first_picture_are_the_tower(vlm, batch, processor):
    cache = VisionCache(vlm, 1)
    vlm.model.load_state_dict(build_miniature(processor, "student", seed=3).state_dict())  # a run that resumes
    first = seen(cache.inputs(batch))
    vlm.model.load_state_dict({k: v.clone() for k, v in vlm.model.state_dict().items()})
    assert torch.equal(seen(cache.inputs(batch)), first) and cache.misses == len(set(batch.digests))


@pytest.mark.parametrize("part", [0, 1])
def test_a_tower_or_projector_that_learns_switches_the_cache_off_and_says_so_once(vlm, batch, capsys, part):
    next(towers(vlm)[part].parameters()).requires_grad_(True)
    cache = VisionCache(vlm, 1)
    for _ in range(2): assert cache.inputs(batch).keys() == batch.model_inputs().keys()
    assert capsys.readouterr().out == "Vision features are computed anew in every step: 1 tensors of the vision tower and projector learn.\n"
    assert cache.bytes == 0


def test_without_room_or_without_pictures_nothing_changes(vlm, batch):
    assert VisionCache(vlm).inputs(batch).keys() == batch.model_inputs().keys()
    bare = replace(batch, picture_inputs={})
    assert VisionCache(vlm, 1).inputs(bare) == bare.model_inputs()


def test_half_precision_has_features_of_its_own(vlm, batch):
    cache = VisionCache(vlm, 1)
    with torch.autocast("cpu", torch.bfloat16):
        half = seen(cache.inputs(batch))
        plain = vlm.family.vision_tokens(vlm.model, batch.picture_inputs)
    assert half.dtype == plain.dtype and not torch.equal(half.float(), seen(cache.inputs(batch)))
    torch.testing.assert_close(half, plain, rtol=0.05, atol=0.05)


def test_features_kept_under_inference_mode_may_be_learned_from(vlm, batch):
    cache = VisionCache(vlm, 1)
    with torch.inference_mode(): cache.inputs(batch)
    gradients(vlm, cache.inputs(batch), batch.labels)
    assert not any(x.is_inference() or x.requires_grad for x in cache.kept.values())


def test_dropout_in_the_tower_is_not_kept(processor, batch):
    model = build_miniature(processor, "student")
    vlm = VLM(model, processor, InternVL())
    freeze(vlm, "vision")
    still = seen(VisionCache(vlm, 1).inputs(batch))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout): module.p = 0.5
    model.train()
    assert torch.equal(seen(VisionCache(vlm, 1).inputs(batch)), still)


def test_a_full_disk_and_a_damaged_file_are_one_sentence(vlm, batch, tmp_path, monkeypatch):
    import drivekd.models.vision as vision
    cache = VisionCache(vlm, folder=tmp_path)

    def full(tensors, path): raise OSError("No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(vision, "save_file", full)
        with pytest.raises(OSError, match="Vision features need room.*No space left"): cache.inputs(batch)
    cache.inputs(batch)
    next(tmp_path.rglob("*.safetensors")).write_bytes(b"torn")
    with pytest.raises(OSError, match="is damaged.*delete it"): cache.inputs(batch)


def test_teachers_show_the_same_and_look_once(records, processor):
    vlm = VLM(build_miniature(processor, "teacher"), processor, InternVL())
    recipe, batch = PRESETS["agp"], Batcher(vlm)(records[:2])
    vlms = dict.fromkeys((c.name for c in recipe.capabilities), vlm)
    plain = Teachers(vlms, recipe, n_student=4).targets(batch)
    remembering, passes = Teachers(vlms, recipe, n_student=4, vision={"gigabytes": 1}), counted(vlm)
    for _ in range(2): cached = remembering.targets(batch)
    assert passes == [1] * len(set(batch.digests))
    for name in plain:
        for layer, maps in plain[name].attention.items(): torch.testing.assert_close(cached[name].attention[layer], maps)
