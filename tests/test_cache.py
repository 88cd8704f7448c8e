"Cached targets are the targets, bit for bit, or a sentence."
import json
from types import SimpleNamespace

import pytest
import torch
from toys import CAPABILITIES, collate, samples, tiny

from drivekd.distill.cache import CARD, CachedTeachers, StoredTeachers, find_teachers, sample_key, target_bytes
from drivekd.distill.capabilities import PRESETS, with_options
from drivekd.distill.lesson import Lesson
from drivekd.distill.objective import shares, static_weights
from drivekd.distill.step import Window
from drivekd.distill.teachers import Teachers

RECIPES = {"agp": PRESETS["agp"], "routed": with_options("agp", mixing="identity"), "kl": PRESETS["kl"], "hidden_mid": PRESETS["hidden_mid"],
           "cosine_reasoning": PRESETS["cosine_reasoning"], "full_first": PRESETS["full_first"]}


def teachers(recipe, seed=1, asked=None):
    "One teacher for all capabilities; counts its passes."
    vlm = tiny(6, 2, seed=seed)
    if asked is not None: vlm.model.register_forward_pre_hook(lambda *a: asked.append(1))
    return Teachers({c.name: vlm for c in recipe.capabilities}, recipe, n_student=4)


def padded(chosen):
    "A batch whose first sample is shorter."
    batch = collate(chosen)
    batch.attention_mask[0, 10:] = 0
    batch.labels[0, 10:] = -100
    return batch


def study(recipe, teaching, batch):
    "Losses and combined gradient of one step."
    student = tiny(4, 2)
    window = Window(student.model.parameters(), recipe)
    losses = Lesson(student, teaching, recipe).study(batch, window, static_weights(recipe))
    window.combine(key=(0,))
    return losses, window.total


@pytest.mark.parametrize("name", RECIPES)
def test_cached_equals_online_bit_for_bit(tmp_path, name):
    recipe, asked = RECIPES[name], []
    batch = padded(samples(3, tuple(c.name for c in recipe.capabilities)))
    cached = CachedTeachers(teachers(recipe, asked=asked), tmp_path)
    wanted = study(recipe, teachers(recipe), batch)
    for _ in range(2):
        found = study(recipe, cached, batch)
        for term, share in shares(recipe, batch.capabilities).items():
            assert torch.equal(found[0][term] * torch.tensor(share), wanted[0][term] * torch.tensor(share))
        for a, b in zip(found[1], wanted[1], strict=True): assert (a is None and b is None) or torch.equal(a, b)
    assert len(asked) == 1


def test_a_sample_is_known_in_other_company_and_padding(tmp_path):
    recipe, asked = PRESETS["agp"], []
    cached, chosen = CachedTeachers(teachers(recipe, asked=asked), tmp_path), samples(3)
    whole = cached.targets(collate(chosen))
    alone = cached.targets(collate(chosen[1:2]))
    assert len(asked) == 1
    for name in whole:
        for layer, maps in whole[name].attention.items(): assert torch.equal(maps[1:2], alone[name].attention[layer])
    cached.targets(collate(samples(4)))  # one new among three known ones
    assert len(asked) == 2 and len(list(tmp_path.rglob("*.safetensors"))) == 4


def test_every_part_of_a_sample_is_in_its_key():
    batch = collate(samples(1))
    keys = {sample_key(batch, 0)}
    for field in ("input_ids", "labels", "vision_mask"):
        other = collate(samples(1))
        value = getattr(other, field)
        value[0, 6] = ~value[0, 6] if value.dtype == torch.bool else value[0, 6] + 1
        keys.add(sample_key(other, 0))
    for digests in (["red"], ["blue"]):
        batch.picture_inputs, batch.encoded = {"pixel_values": torch.ones(1, 3, 4, 4)}, [SimpleNamespace(digests=digests)]
        keys.add(sample_key(batch, 0))
    assert len(keys) == 6


def processor(template="t"):
    return SimpleNamespace(tokenizer=SimpleNamespace(get_vocab=lambda: {"a": 0}), chat_template=template,
                           image_processor=SimpleNamespace(to_json_string=lambda: "{}"))


@pytest.mark.parametrize("change, named", [
    (dict(teachers=teachers(PRESETS["agp"], seed=2)), "teachers"), (dict(processor=processor("u")), "processor"), (dict(dtype="float16"), "dtype"),
    (dict(teachers=teachers(with_options("agp", match="even"))), "signals"),
    (dict(teachers=Teachers({c: tiny(6, 2, seed=1) for c in CAPABILITIES}, PRESETS["agp"], n_student=3)), "signals")])
def test_a_cache_of_something_else_is_refused_by_name(tmp_path, change, named):
    base = dict(teachers=teachers(PRESETS["agp"]), processor=processor())
    CachedTeachers(folder=tmp_path, **base)
    CachedTeachers(folder=tmp_path, **base)
    with pytest.raises(ValueError, match=rf"differs in {named}: name another folder"): CachedTeachers(folder=tmp_path, **base | change)


@pytest.mark.parametrize(("first", "second"), [("identity", "default"), ("default", "identity")])
def test_a_cache_filled_under_another_mixing_is_refused(tmp_path, first, second):
    recipes = {"default": PRESETS["agp"], "identity": with_options("agp", mixing="identity")}
    CachedTeachers(teachers(recipes[first]), tmp_path).targets(collate(samples(2, tuple(CAPABILITIES))))
    with pytest.raises(ValueError, match="differs in taught"): CachedTeachers(teachers(recipes[second]), tmp_path)


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(ValueError, match="float16"): CachedTeachers(teachers(PRESETS["agp"]), tmp_path, dtype="int8")


@pytest.mark.parametrize("name", ["agp", "kl", "hidden_mid"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_size_is_known_before_it_is_written(tmp_path, name, dtype):
    recipe = RECIPES[name]
    batch, teaching = padded(samples(2, tuple(c.name for c in recipe.capabilities)[:1])), teachers(recipe)
    sizes = target_bytes(teaching, batch, dtype)
    CachedTeachers(teaching, tmp_path, dtype=dtype).targets(batch)
    files = [f.read_bytes() for f in tmp_path.rglob("*.safetensors")]
    assert sorted(sizes) == sorted(len(f) - 8 - int.from_bytes(f[:8], "little") for f in files)  # behind the header


def test_a_cache_that_does_not_fit_is_refused_with_the_numbers(tmp_path):
    cached = CachedTeachers(teachers(PRESETS["agp"]), tmp_path, samples=10**13)
    with pytest.raises(OSError, match="GB free: choose another folder, dtype float16"): cached.targets(collate(samples(1)))
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_rounds_targets_the_first_time_too(tmp_path, dtype):
    batch, cached = collate(samples(2)), CachedTeachers(teachers(PRESETS["agp"]), tmp_path, dtype=dtype)
    first, second = (study(PRESETS["agp"], cached, batch)[0] for _ in range(2))
    exact = study(PRESETS["agp"], teachers(PRESETS["agp"]), batch)[0]
    for term in exact:
        assert torch.equal(first[term], second[term])
        torch.testing.assert_close(first[term], exact[term], rtol=0.01, atol=0)


def test_nothing_half_written_is_ever_read(tmp_path, monkeypatch):
    import drivekd.distill.cache as cache
    cached, batch = CachedTeachers(teachers(PRESETS["agp"]), tmp_path), collate(samples(1))

    def dies(values, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(cache, "save_file", dies)
        with pytest.raises(OSError, match="No space"): cached.targets(batch)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert cached.targets(batch).keys() == set(CAPABILITIES)
    assert set(json.loads((tmp_path / "cache.json").read_text())) == {"version", "teachers", "layers", "widths", "processor", "alignment", "signals", "taught", "dtype"}


def test_the_trainer_reads_the_second_epoch_and_ends_at_the_same_weights(tmp_path):
    from test_trainer import make
    ends = []
    for cache in (None, str(tmp_path / "targets")):
        torch.manual_seed(0)
        trainer = make(tmp_path / str(len(ends)), target_cache=cache, data=samples(4), max_steps=3)
        passes = []
        for t in trainer.lesson.teachers.teachers if cache is None else trainer.lesson.teachers.teachers.teachers:
            t.vlm.model.register_forward_pre_hook(lambda *a, passes=passes: passes.append(1))
        trainer.train()
        ends.append((len(passes), trainer.model.state_dict()))
    assert ends[0][0] == 9 and ends[1][0] == 3  # three teachers, three epochs of one batch
    for name, p in ends[0][1].items(): assert torch.equal(p, ends[1][1][name]), name


def trained(recipe, teaching, steps=3):
    "Weights of a student after some steps on changing batches."
    student, chosen = tiny(4, 2), samples(6, tuple(c.name for c in recipe.capabilities))
    optimizer, window = torch.optim.AdamW(student.model.parameters(), lr=1e-2), Window(student.model.parameters(), recipe)
    lesson = Lesson(student, teaching, recipe)
    for step in range(steps):
        lesson.study(collate(chosen[2 * step:2 * step + 2]), window, static_weights(recipe))
        window.combine(key=(step,))
        window.finish()
        optimizer.step()
        optimizer.zero_grad()
    return student.model.state_dict()


def all_batches(recipe):
    "Every sample of `trained`, in other company."
    chosen = samples(6, tuple(c.name for c in recipe.capabilities))
    return [collate(chosen[:4]), collate(chosen[4:])]


@pytest.mark.parametrize("name", [n for n in RECIPES if n != "hidden_mid"])
def test_a_student_without_teachers_ends_at_the_same_weights_bit_for_bit(tmp_path, name):
    recipe = RECIPES[name]
    online = trained(recipe, teachers(recipe))
    CachedTeachers(teachers(recipe), tmp_path).fill(all_batches(recipe))
    stored = StoredTeachers(recipe, 4, tmp_path)
    assert not [x for x in vars(stored).values() if isinstance(x, (torch.Tensor, torch.nn.Module, Teachers))]
    alone = trained(recipe, stored)
    assert any(not torch.equal(p, online[n]) for n, p in tiny(4, 2).model.state_dict().items())
    for n, p in online.items(): assert torch.equal(p, alone[n]), n


def test_filling_asks_once_and_tells_what_was_lacking(tmp_path):
    recipe, asked = PRESETS["agp"], []
    cached = CachedTeachers(teachers(recipe, asked=asked), tmp_path)
    batches = all_batches(recipe)
    assert cached.lacking(batches) == [f"q{i}" for i in range(6)]
    for _ in range(2): cached.fill(batches)
    assert len(asked) == 2 and StoredTeachers(recipe, 4, tmp_path).lacking(batches) == []


def test_what_a_checkpoint_and_learned_projections_ask_of_teachers_is_on_the_card(tmp_path):
    recipe = PRESETS["agp"]
    shown = teachers(recipe)
    CachedTeachers(shown, tmp_path, dtype="float16")
    stored = StoredTeachers(recipe, 4, tmp_path, dtype="float16")
    assert (stored.fingerprints, stored.layers, stored.widths) == (shown.fingerprints, dict.fromkeys(CAPABILITIES, 6), dict.fromkeys(CAPABILITIES, 16))


def test_a_sample_that_never_came_by_is_named(tmp_path):
    recipe = PRESETS["agp"]
    CachedTeachers(teachers(recipe), tmp_path).fill([collate(samples(2))])
    stored = StoredTeachers(recipe, 4, tmp_path)
    stored.targets(collate(samples(2)))
    with pytest.raises(FileNotFoundError, match="has none of 'q2' with these tokens, answers and pictures in this precision .weights.: train once with the teachers"):
        stored.targets(collate(samples(4)))
    changed = collate(samples(1))
    changed.labels[0, 9] = -100
    with pytest.raises(FileNotFoundError, match="has none of 'q0'"): stored.targets(changed)


@pytest.mark.parametrize("change, named", [
    (dict(recipe=with_options("agp", match="even")), "signals"), (dict(recipe=with_options("agp", mixing="identity")), "taught"),
    (dict(n_student=3), "signals"), (dict(dtype="float16"), "dtype"), (dict(processor=processor("u")), "processor")])
def test_stored_targets_of_something_else_are_refused_by_name(tmp_path, change, named):
    CachedTeachers(teachers(PRESETS["agp"]), tmp_path, processor=processor())
    base = dict(recipe=PRESETS["agp"], n_student=4, folder=tmp_path, processor=processor())
    StoredTeachers(**base)
    with pytest.raises(ValueError, match=rf"differs in {named}: name another folder"): StoredTeachers(**base | change)


def test_other_capabilities_an_older_folder_and_no_folder_are_one_sentence(tmp_path):
    recipe = PRESETS["agp"]
    CachedTeachers(teachers(PRESETS["cosine_reasoning"]), tmp_path)
    with pytest.raises(ValueError, match=r"has \['reasoning'\], the recipe wants \['perception', 'planning', 'reasoning'\]"): StoredTeachers(recipe, 4, tmp_path)
    (tmp_path / CARD).write_text(json.dumps({"version": 1}))
    with pytest.raises(ValueError, match="differs in version"): StoredTeachers(recipe, 4, tmp_path)
    with pytest.raises(FileNotFoundError, match=f"holds no {CARD}: train once with the teachers loaded"): StoredTeachers(recipe, 4, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_damaged_targets_are_one_sentence(tmp_path):
    recipe, batch = PRESETS["agp"], collate(samples(1))
    CachedTeachers(teachers(recipe), tmp_path).fill([batch])
    next(tmp_path.rglob("*.safetensors")).write_bytes(b"torn")
    with pytest.raises(OSError, match="is damaged.*delete it"): StoredTeachers(recipe, 4, tmp_path).targets(batch)


def test_who_teaches_follows_from_what_is_given(tmp_path):
    student, vlms, recipe = tiny(4, 2), dict.fromkeys(CAPABILITIES, tiny(6, 2, seed=1)), PRESETS["agp"]
    assert type(find_teachers(student, vlms, recipe)) is Teachers
    assert type(find_teachers(student, vlms, recipe, tmp_path)) is CachedTeachers
    assert type(find_teachers(student, None, recipe, tmp_path)) is StoredTeachers
    with pytest.raises(ValueError, match="none was given for"): find_teachers(student, None, recipe)


def test_targets_in_half_precision_are_not_taken_for_those_in_float32(tmp_path):
    teachers, batch = Teachers(dict.fromkeys(CAPABILITIES, tiny(7)), PRESETS["agp"], 4), collate(samples(3))
    cache = CachedTeachers(teachers, tmp_path)
    with torch.autocast("cpu", torch.bfloat16): cache.fill([batch])
    stored = StoredTeachers(PRESETS["agp"], 4, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"in this precision \(weights\)"): stored.targets(batch)
    with torch.autocast("cpu", torch.bfloat16): assert set(stored.targets(batch)) == set(CAPABILITIES)
