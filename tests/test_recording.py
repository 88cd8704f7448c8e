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


def test_models_that_cut_the_text_differently_are_refused(families, question):
    student, other = families["internvl"]["student"], miniature_vlm("internvl", ["a b c"])
    with pytest.raises(BundleError, match="cut the text differently"): R.record({}, {"one": student, "two": other}, question, replies=False, say=str)


def test_masking_paints_only_the_boxes_and_leaves_the_files_alone(question, tmp_path):
    from drivekd.data.images import load_image
    before, masked = load_image(question.images[0]), R.masked(question, {0: [[0.25, 0.5, 0.5, 1.0]]}, tmp_path)
    after, changed = load_image(masked.images[0]), np.asarray(load_image(question.images[0]))
    w, h = before.size
    differs = (np.asarray(before) != np.asarray(after)).any(2)
    assert differs[h // 2:, w // 4:w // 2].mean() > 0.9 and not differs[:h // 2].any() and not differs[:, w // 2:].any() and np.array_equal(changed, np.asarray(before))


def test_recipe_layers_are_those_of_the_loss():
    assert R.recipe_layers(make_recipe("agp"), 8) == (0, 1, 2, 3, 4, 5, 6) and R.recipe_layers(make_recipe("single_planning"), 8) == (6,)
    assert R.recipe_layers(make_recipe("ce"), 8) == ()
