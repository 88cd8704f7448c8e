"A recording holds what the models really looked at, of every family; a masked patch reaches the model."
import numpy as np
import pytest
import torch

from drivekd.distill.capabilities import make_recipe
from drivekd.models.batching import Batcher
from drivekd.models.family_miniatures import MINIATURES, miniature_vlm
from drivekd.workbench import recording as R
from drivekd.workbench.bundle import BundleError


@pytest.fixture(scope="module")
def question(tmp_path_factory):
    return R.world_question(tmp_path_factory.mktemp("world"), "moving status", 0)


@pytest.fixture(scope="module")
def families(question):
    texts = [turn.text for turn in question.turns]
    made = {name: {size: miniature_vlm(name, texts, size) for size in ("teacher", "student")} for name in MINIATURES}
    for pair in made.values(): pair["teacher"].model.eval(), pair["student"].model.eval()
    return made


@pytest.mark.parametrize("family", sorted(MINIATURES))
def test_a_bundle_of_every_family_holds_its_attention(families, question, family):
    teacher, student = families[family]["teacher"], families[family]["student"]
    said = []
    bundle = R.record({"planning": teacher}, {"student": student}, question, replies=False, say=said.append)
    batch = Batcher(teacher)([question])
    assert len(said) == 1 and all(len(m.geometry.picture) == len(Batcher(v)([question]).columns(0)) for m, v in zip(bundle.models, (teacher, student), strict=True))
    teacher.model.set_attn_implementation("eager")
    with torch.inference_mode(): theirs = teacher.model(**batch.model_inputs(), output_attentions=True, use_cache=False).attentions
    teacher.model.set_attn_implementation("sdpa")
    rows, m = R.rows_of(batch.encoded[0]).places, bundle.find("planning")
    for layer in m.layers:
        wanted = theirs[layer][0].mean(0)[rows][:, batch.columns(0)].numpy()
        assert np.abs(bundle.values("planning", layer) - wanted).max() < 0.005 * max(wanted.max(), 1e-3) + 1e-6
    assert np.allclose(m.share.sum(2), 1, atol=1e-4) and all(set(t) <= set(m.layers) for p in bundle.plans for _, t in p.pairs)


def test_rows_spell_question_and_answer(families, question):
    for pair in families.values():
        rows = R.rows_of(Batcher(pair["student"])([question]).encoded[0])
        assert "".join(rows.question.split()) == "".join(question.question.split()) and rows.answer.startswith(question.answer)
        assert [t.role for t in rows.tokens].count("prompt") == 1 and all(t.text == getattr(rows, t.role)[t.start:t.end] for t in rows.tokens if t.role != "prompt")


def test_size_is_refused_before_anything_is_computed(families, question):
    student = families["internvl"]["student"]
    student.model.forward, forward = None, student.model.forward  # calling it would fail
    try:
        with pytest.raises(BundleError, match="above the limit"): R.record({}, {"student": student}, question, limit=1000)
    finally: student.model.forward = forward


def test_models_that_cut_the_text_otherwise_are_carried_by_characters(families, question):
    "Row by row the mean over the characters of a word, each of which belongs to one token of the other model."
    student, other = families["internvl"]["student"], miniature_vlm("internvl", ["a b c"])
    other.model.eval()
    bundle = R.record({"planning": other}, {"one": student}, question, replies=False, say=str)
    batch = Batcher(other)([question])
    encoded, own, m = batch.encoded[0], R.rows_of(batch.encoded[0]), bundle.find("planning")
    other.model.set_attn_implementation("eager")
    with torch.inference_mode(): theirs = other.model(**batch.model_inputs(), output_attentions=True, use_cache=False).attentions
    begin, layer = encoded.text.index(bundle.question[:40]), m.layers[0]
    of_character = {c: i for i, (a, b) in enumerate(encoded.offsets.tolist()) for c in range(a, b)}
    mean = theirs[layer][0].mean(0)[:, batch.columns(0)].numpy()
    words = [i for i, t in enumerate(bundle.tokens) if t.role == "question"][1:12]
    wanted = [np.mean([mean[of_character[begin + c]] for c in range(bundle.tokens[i].start, bundle.tokens[i].end)], 0) for i in words]
    assert np.abs(bundle.values("planning", layer)[words] - wanted).max() < 0.01 * np.max(wanted)
    by_role = {t.role: own.places[i] for i, t in enumerate(own.tokens) if t.role != "question"}  # the last of each
    for row, place in ((next(i for i, t in enumerate(bundle.tokens) if t.role == "prompt"), by_role["prompt"]), (len(bundle.tokens) - 1, by_role["answer"])):
        assert np.abs(bundle.values("planning", layer)[row] - mean[place]).max() < 0.01 * mean[place].max()
    told = {model.name: model.carried for model in bundle.models}
    assert told["one"] == () and set(words) & set(told["planning"]) and np.allclose(m.share.sum(2), 1, atol=1e-4)


def test_a_teacher_of_another_family_is_recorded_beside_the_student(families, question):
    other = miniature_vlm("qwen2_5_vl", ["a b c"], "teacher")
    bundle = R.record({"planning": other}, {"one": families["internvl"]["student"]}, question, rows=[3, 60, 61], head_layers={"planning": [0]}, replies=False, say=str)
    assert len(bundle.tokens) == 3 and bundle.find("planning").rows == (0, 1, 2) and bundle.find("planning", head=0).rows == (1, 2) and bundle.plans
    assert {len(m.geometry.picture) for m in bundle.models} != {len(bundle.models[0].geometry.picture)}


WRONG = {
    "a recipe that compares no attention": (dict(recipe="ce"), "recipe 'ce' compares none"),
    "a layer that is not there": (dict(layers={"student": [9]}), "found 9"),
    "no layer": (dict(layers={"student": []}), "at least one layer"),
    "a model that is not there": (dict(layers={"studnet": [0]}), "found 'studnet'"),
    "heads of a layer that is not there": (dict(head_layers={"student": [-1]}), "found -1"),
    "a row that is not there": (dict(rows=[999]), r"found \[999\]"),
    "a row twice": (dict(rows=[1, 1]), "different places"),
    "no row": (dict(rows=[]), "different places"),
    "a method that is not there": (dict(methods=("atention",)), "found 'atention'"),
    "a store that is not there": (dict(store="int3"), "found 'int3'"),
    "a layer without a list": (dict(layers={"student": 3}), "list of whole numbers, counted from 0, found 3"),
    "a truth instead of a layer": (dict(layers={"student": [True]}), "found \\[True\\]"),
    "single heads of a truth": (dict(head_layers={"student": [True]}), "found \\[True\\]"),
    "a picture without width": (dict(picture_width=0), "at least 1 pixel wide, found 0"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_asked_wrongly_is_one_sentence_before_anything_is_computed(families, question, what):
    student, (options, words) = families["internvl"]["student"], WRONG[what]
    student.model.forward, forward = None, student.model.forward  # calling it would fail
    try:
        with pytest.raises(BundleError, match=words) as caught: R.record({}, {"student": student}, question, **options)
        assert "\n" not in str(caught.value)
    finally: student.model.forward = forward


def test_two_models_of_one_name_and_questions_without_pictures_are_refused(families, question):
    from dataclasses import replace
    student = families["internvl"]["student"]
    with pytest.raises(BundleError, match="different names"): R.record({"a": student}, {"a": student}, question)
    with pytest.raises(BundleError, match="has none; choose another"): R.record({}, {"a": student}, replace(question, images=()))
    with pytest.raises(BundleError, match="at least one word"): R.with_answer(question, " ")


def test_a_missing_picture_is_one_sentence_before_anything_is_computed(families, question, tmp_path):
    from dataclasses import replace
    student, gone = families["internvl"]["student"], replace(question.images[0], path=tmp_path / "gone.jpg")
    student.model.forward, forward = None, student.model.forward  # calling it would fail
    try:
        with pytest.raises(ValueError, match=r"^there is no picture \S*gone\.jpg; give the folder") as caught: R.record({}, {"student": student}, replace(question, images=(gone, *question.images[1:])))
        assert "\n" not in str(caught.value)
    finally: student.model.forward = forward


def test_an_answer_of_ones_own_is_read_along(families, question):
    bundle = R.record({}, {"student": families["internvl"]["student"]}, R.with_answer(question, "Turn left."), methods=("attention",), replies=False, say=str)
    assert bundle.answer.startswith("Turn left.") and bundle.question == question.question


def test_gradients_give_the_model_back_as_it_was_even_if_they_fail(families, question):
    from drivekd.study.relevance import gradient_weighted
    student = families["internvl"]["student"]
    batch, none = Batcher(student)([question]), torch.arange(0)
    student.model.train()
    try:
        with pytest.raises(ValueError, match="were asked for"): gradient_weighted(student, batch, [99], none, none)
        assert student.model.training
    finally: student.model.eval()


def test_masking_paints_only_the_boxes_and_leaves_the_files_alone(question, tmp_path):
    from drivekd.data.images import load_image
    before, masked = load_image(question.images[0]), R.masked(question, {0: [[0.25, 0.5, 0.5, 1.0]]}, tmp_path)
    after, changed = load_image(masked.images[0]), np.asarray(load_image(question.images[0]))
    w, h = before.size
    differs = (np.asarray(before) != np.asarray(after)).any(2)
    assert differs[h // 2:, w // 4:w // 2].mean() > 0.9 and not differs[:h // 2].any() and not differs[:, w // 2:].any() and np.array_equal(changed, np.asarray(before))


@pytest.mark.parametrize("index", [9, -1, True, "0"])
def test_a_picture_that_is_not_there_is_refused_before_a_model_is_asked(question, index):
    asking = R.ablation({"student": None}, question)  # asking it would fail
    with pytest.raises(BundleError, match="counted from 0 to 0, found boxes of picture"): asking("student", {index: [[0, 0, 0.5, 0.5]]})


def test_recipe_layers_are_those_of_the_loss():
    assert R.recipe_layers(make_recipe("agp"), 8) == (0, 1, 2, 3, 4, 5, 6) and R.recipe_layers(make_recipe("single_planning"), 8) == (6,)
    assert R.recipe_layers(make_recipe("ce"), 8) == ()
