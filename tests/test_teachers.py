"Teachers: frozen, short, shared, and of the student's language."
from types import SimpleNamespace

import pytest
import torch
from toys import CAPABILITIES, collate, samples, tiny

from drivekd.distill.capabilities import PRESETS, Signal, with_options
from drivekd.distill.objective import Needs, listen, signal_region
from drivekd.distill.teachers import Teacher, Teachers, check_teachers, fingerprint

RECIPE = PRESETS["agp"]
SIGNALS = {c.name: c.signal for c in RECIPE.capabilities}


@pytest.fixture
def batch(): return collate(samples(3))


def count_layers(vlm):
    "Record which layers (and the head) run."
    ran = []
    for i, layer in enumerate(vlm.llm_layers): layer.register_forward_pre_hook(lambda *a, i=i: ran.append(i))
    vlm.model.lm_head.register_forward_pre_hook(lambda *a: ran.append("head"))
    return ran


@pytest.mark.parametrize("names, last", [(["perception"], 0), (["planning"], 4), (["reasoning"], 4)])
def test_a_teacher_stops_in_the_last_layer_needed(batch, names, last):
    vlm = tiny(6, 4)
    ran = count_layers(vlm)
    Teacher(vlm, {n: SIGNALS[n] for n in names}, n_student=4).targets(batch)
    assert ran == list(range(last + 1))


def test_a_shortened_pass_shows_what_a_whole_one_shows(batch):
    vlm = tiny(6, 4)
    with torch.no_grad(), listen(vlm, Needs(attention=tuple(range(6)))) as whole: vlm.model(**batch.model_inputs())
    targets = Teacher(vlm, SIGNALS, n_student=4).targets(batch)
    text = signal_region(SIGNALS["perception"], batch).rows[0]  # the same in every sample here
    torch.testing.assert_close(targets["perception"].attention[0][:, text], whole.attention[0][:, text])
    torch.testing.assert_close(targets["planning"].attention[2][:, text], whole.attention[4][:, text])
    for i in range(3):
        torch.testing.assert_close(targets["reasoning"].attention[i], sum(whole.attention[i + j] for j in range(3)) / 3)


def test_hidden_targets_stop_after_their_layer_and_logits_run_to_the_end(batch):
    vlm = tiny(6, 4)
    ran = count_layers(vlm)
    hidden = Teacher(vlm, {"planning": Signal("hidden", "mid", "full")}, n_student=4).targets(batch)
    assert ran == [0, 1, 2] and hidden["planning"].hidden[1].shape == (3, 12, 32)
    ran.clear()
    mixed = {"perception": SIGNALS["perception"], "planning": Signal("hidden", "mid", "full")}
    assert Teacher(vlm, mixed, n_student=4).targets(batch).keys() == mixed.keys() and ran == [0, 1, 2]
    ran.clear()
    logits = Teacher(vlm, {"planning": Signal("logits", region="full", distance="kl")}, n_student=4).targets(batch)
    assert ran[-1] == "head" and logits["planning"].logits.shape == (9, 40)  # answer tokens only


def test_teachers_are_frozen_and_targets_carry_no_graph(batch):
    vlm = tiny(6, 4)
    vlm.model.train()
    targets = Teacher(vlm, SIGNALS, n_student=4).targets(batch)
    assert not vlm.model.training and not any(p.requires_grad for p in vlm.model.parameters())
    assert not any(m.requires_grad for t in targets.values() for m in t.attention.values())


def test_equal_weights_share_one_pass_wherever_they_come_from(batch):
    one, twin, other = tiny(4, 4, seed=1), tiny(4, 4, seed=1), tiny(4, 4, seed=2)
    counts = [count_layers(v) for v in (one, twin, other)]
    teachers = Teachers(dict(zip(CAPABILITIES, (one, twin, other), strict=True)), RECIPE, n_student=4)
    assert [list(t.signals) for t in teachers.teachers] == [["perception", "reasoning"], ["planning"]]
    shared = teachers.targets(batch)
    assert counts[0] == [0, 1, 2] and counts[1] == [] and counts[2] == [0, 1, 2]
    alone = Teacher(twin, {"reasoning": SIGNALS["reasoning"]}, n_student=4).targets(batch)
    for layer, wanted in alone["reasoning"].attention.items():
        torch.testing.assert_close(shared["reasoning"].attention[layer], wanted, rtol=0, atol=0)


def test_equal_weights_under_another_configuration_are_another_teacher(batch):
    one, edited = tiny(4, 4, seed=1), tiny(4, 4, seed=1)
    edited.model.config.rope_parameters = {**edited.model.config.rope_parameters, "rope_theta": 50.0}
    teachers = Teachers(dict(zip(CAPABILITIES, (one, edited, one), strict=True)), RECIPE, n_student=4)
    assert [list(t.signals) for t in teachers.teachers] == [["perception", "planning"], ["reasoning"]]
    assert teachers.fingerprints["perception"] == teachers.fingerprints["planning"] != teachers.fingerprints["reasoning"], "stored targets are found by these"


def test_one_changed_weight_is_another_teacher():
    one, other = tiny(2), tiny(2)
    before = fingerprint(one.model)
    assert before == fingerprint(other.model)
    with torch.no_grad(): other.model.lm_head.weight[0, 0] += 1e-3
    assert fingerprint(other.model) != before
    assert fingerprint(one.model.to(torch.bfloat16)) != before


def test_routing_runs_only_the_teachers_of_the_batch():
    vlms = {n: tiny(4, 4, seed=i) for i, n in enumerate(CAPABILITIES)}
    counts = {n: count_layers(v) for n, v in vlms.items()}
    targets = Teachers(vlms, with_options(RECIPE, mixing="identity"), n_student=4).targets(collate(samples(2, ("planning",))))
    assert targets.keys() == {"planning"} and counts["planning"] and not counts["perception"] and not counts["reasoning"]


def test_a_missing_teacher_is_named():
    with pytest.raises(ValueError, match=r"none was given for \['planning', 'reasoning'\]"):
        Teachers({"perception": tiny()}, RECIPE, n_student=4)


def test_a_student_does_not_teach_itself():
    student = SimpleNamespace(model=object(), processor=None)
    check_teachers(student, {"planning": SimpleNamespace(model=object(), processor=None)})
    with pytest.raises(ValueError, match="load it twice"): check_teachers(student, {"planning": student})
