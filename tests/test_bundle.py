"A bundle reads back exactly, keeps the mass of every row, and turns whatever is damaged into one sentence."
import io
import json
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from readme import ROOT

from drivekd.distill.capabilities import DRIVING, layer_indices, layer_plan, make_recipe
from drivekd.workbench import bundle as B

SHIPPED = ROOT / "data/explorers/miniature.safetensors"
PICTURES = {"CAM_FRONT": Image.new("RGB", (32, 18), "#789"), "CAM_BACK": Image.new("RGB", (32, 18), "#987")}


def made(store="uint8", **options):
    rng = np.random.default_rng(0)
    maps = {"big": {l: rng.dirichlet(np.ones(9), (2, 5))[..., :8] for l in range(4)}, "small": {l: rng.dirichlet(np.ones(3), 5)[:, :2] for l in range(3)}}
    return B.bundle_of("is the car moving Yes".split(), maps, PICTURES, roles={"big": "teacher", "small": "student"}, answer_from=4, recipe=make_recipe("agp"), store=store,
                       objects=[B.SceneObject("c1", 0, (0.2, 0.3)), B.SceneObject("car", 1, None, (0.1, 0.2, 0.5, 0.6))], **{"depth": {"big": 4, "small": 3}, **options})


def rewritten(change):
    "A bundle's file whose words, as text, were changed."
    data = made().to_bytes()
    n = int.from_bytes(data[:8], "little")
    outer = json.loads(data[8:8 + n])
    outer["__metadata__"]["drivekd"] = change(outer["__metadata__"]["drivekd"])
    text = json.dumps(outer).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + n:]


def broken(header):
    "A bundle's file whose words were changed by `header`."
    def change(text):
        words = json.loads(text)
        header(words)
        return json.dumps(words)
    return rewritten(change)


@pytest.mark.parametrize("store", B.STORES)
def test_what_is_written_reads_back_exactly(tmp_path, store):
    first = made(store)
    again = B.read(first.write(tmp_path / "a.safetensors"))
    assert again == first and [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert (again.tokens, again.cameras, again.objects, again.plans, again.question, again.answer, dict(again.source)) == \
           (first.tokens, first.cameras, first.objects, first.plans, first.question, first.answer, dict(first.source))
    for a, b in zip(first.maps, again.maps, strict=True): assert np.array_equal(a.codes, b.codes) and a.codes.dtype == b.codes.dtype and np.array_equal(a.scale, b.scale)


def test_the_same_is_written_as_the_same_bytes_whoever_holds_it_in_which_order(tmp_path):
    first, second = (replace(made(), source=dict(pairs)) for pairs in ([("record", "q1"), ("recipe", "agp")], [("recipe", "agp"), ("record", "q1")]))
    assert first == second and len({b.write(tmp_path / str(i)).read_bytes() for i, b in enumerate((first, first, second))}) == 1


def one_code_up(m):
    codes = m.codes.copy()
    codes[0, 0, 0] += 1
    return replace(m, codes=codes)


@pytest.mark.parametrize("change", [
    lambda b: dict(maps=(one_code_up(b.maps[0]), *b.maps[1:])), lambda b: dict(maps=b.maps[:-1] + (replace(b.maps[-1], scale=b.maps[-1].scale / 2),)), lambda b: dict(answer=b.answer + "!"),
    lambda b: dict(models=(replace(b.models[0], reply="no"), *b.models[1:])), lambda b: dict(objects=b.objects[:1]), lambda b: dict(source={"record": "x"})], ids=["code", "scale", "answer", "reply", "objects", "source"])
def test_one_changed_value_makes_another_bundle(change):
    first = made()
    other = replace(first, **change(first))
    assert made() == first != other and first != first.to_bytes() and {first: "mine", other: "theirs"}[made()] == "mine"


@given(arrays(np.float64, (3, 7), elements=st.floats(0, 1) | st.floats(0, 1e-9)), st.sampled_from(B.STORES))
def test_packing_keeps_the_mass_of_every_row_and_stays_close(values, store):
    back = B.unpack(*B.pack(values, store))
    assert np.allclose(back.sum(1), values.sum(1), rtol=2e-3 if store == "float16" else 1e-5, atol=1e-30)
    assert np.all(np.abs(back - values) <= 0.005 * values.max(1, keepdims=True) + 1e-30)


@given(st.binary(max_size=200))
def test_random_bytes_are_one_sentence(data):
    with pytest.raises(B.BundleError) as caught: B.from_bytes(data)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("cut", range(0, 2500, 97))
def test_a_cut_file_is_one_sentence(cut):
    with pytest.raises(B.BundleError, match="damaged"): B.from_bytes(made().to_bytes()[:cut])


def test_pickles_and_archives_are_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self): return (open, (str(tmp_path / "boom"), "w"))
    archive = io.BytesIO()
    np.savez(archive, a=np.array([Bomb()], dtype=object))
    for data in (pickle.dumps(Bomb()), archive.getvalue()):
        with pytest.raises(B.BundleError, match="pickle or an archive"): B.from_bytes(data)
    assert not (tmp_path / "boom").exists()


DAMAGES = {
    "a row that is no token": lambda w: w["maps"][0]["rows"].__setitem__(0, 99),
    "a layer that the model lacks": lambda w: w["maps"][0]["layers"].__setitem__(0, 44),
    "a map of nobody": lambda w: w["maps"][0].update(model="me"),
    "an unknown method": lambda w: w["maps"][0].update(method="guess"),
    "a token outside its text": lambda w: w["tokens"][0].update(end=10_000),
    "an object outside its picture": lambda w: w["objects"][0].update(point=[3, 3]),
    "an object of no picture": lambda w: w["objects"][0].update(picture=9),
    "two models of one name": lambda w: w["models"][1].update(name="big"),
    "an unknown field": lambda w: w["models"][1].update(code="import os"),
    "another kind": lambda w: w.update(kind="something else"),
    "a plan of nobody": lambda w: w["plans"][0].update(teacher="me"),
    "a plan of layers that the model lacks": lambda w: w["plans"][0]["pairs"].__setitem__(0, [0, [44]]),
    "a plan of nothing": lambda w: w["plans"][0].update(pairs=[]),
    "a plan by another distance": lambda w: w["plans"][0].update(distance="guess"),
    "a picture without a width": lambda w: w["cameras"][0].update(width=0),
    "a picture whose height is a word": lambda w: w["cameras"][0].update(height="<b>"),
    "no tokens": lambda w: w.update(tokens=[]),
    "a carried row that is no token": lambda w: w["models"][0].update(carried=[99]),
    "a plan whose pairs are words": lambda w: w["plans"][0].update(pairs="ab"),
    "a box of three numbers": lambda w: w["objects"][1].update(box=[0.1, 0.2, 0.5]),
    "a box that is turned round": lambda w: w["objects"][1].update(box=[0.5, 0.2, 0.1, 0.6]),
    "a box of no height": lambda w: w["objects"][1].update(box=[0.1, 0.2, 0.5, 0.2]),
    "a box of marks": lambda w: w["objects"][1].update(box=[False, False, True, True]),
    "a point of one number": lambda w: w["objects"][0].update(point=[0.1]),
    "a point of three numbers": lambda w: w["objects"][0].update(point=[0.1, 0.2, 0.3]),
    "an object of half a picture": lambda w: w["objects"][0].update(picture=0.5),
    "a label that is a number": lambda w: w["objects"][0].update(label=7),
    "two cameras of one name": lambda w: w["cameras"][1].update(name="CAM_FRONT"),
    "a row twice": lambda w: w["maps"][0]["rows"].__setitem__(0, w["maps"][0]["rows"][1]),
    "a layer twice": lambda w: w["maps"][0]["layers"].__setitem__(0, w["maps"][0]["layers"][1]),
    "a head twice": lambda w: w["maps"][2].update(head=w["maps"][1]["head"]),
    "a head that is a mark": lambda w: w["maps"][1].update(head=True),
    "a row that is half a token": lambda w: w["maps"][0]["rows"].__setitem__(0, 0.5),
    "a layer that is a word": lambda w: w["maps"][0]["layers"].__setitem__(0, "0"),
    "a source that is a list": lambda w: w.update(source=["a"]),
    "a source of numbers": lambda w: w.update(source={"record": 5}),
    "a camera without a name": lambda w: w["cameras"][0].update(name=None),
    "a question that is a number": lambda w: w.update(question=5),
    "a reply that is a list": lambda w: w["models"][0].update(reply=["a"]),
    "a model named by a number": lambda w: w["models"][0].update(name=5),
    "an unknown role": lambda w: w["models"][0].update(role="god"),
    "heads that are a word": lambda w: w["models"][0].update(heads="2"),
    "a plan of a numbered capability": lambda w: w["plans"][0].update(capability=3),
    "a picture wider than any JPEG": lambda w: w["cameras"][0].update(width=10**400),
    "more layers than any model": lambda w: w["models"][0].update(layers=10**400),
    "more heads than any model": lambda w: w["models"][0].update(heads=10**400),
    "a token that begins at half a character": lambda w: w["tokens"][0].update(start=0.5),
    "a token that ends at a mark": lambda w: w["tokens"][0].update(end=True),
    "a plan of half a layer": lambda w: w["plans"][0]["pairs"][0].__setitem__(0, 0.5),
    "a plan of a marked layer": lambda w: w["plans"][0]["pairs"][0].__setitem__(1, [True]),
    "a plan that averages a number": lambda w: w["plans"][0]["pairs"][0].__setitem__(1, 2),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_words_that_do_not_fit_the_arrays_are_one_sentence(what):
    with pytest.raises(B.BundleError) as caught: B.from_bytes(broken(DAMAGES[what]), "x.safetensors")
    assert str(caught.value).startswith("x.safetensors") and "\n" not in str(caught.value)


def test_words_in_countless_brackets_are_one_sentence():
    with pytest.raises(B.BundleError, match=r"^x is no attention bundle, or damaged \(RecursionError.*write it again\.$"):
        B.from_bytes(rewritten(lambda text: "[" * 100_000 + "]" * 100_000), "x")


def test_an_untouched_header_is_not_damaged(): assert B.from_bytes(broken(lambda w: None)).to_bytes()


def test_size_is_said_before_writing_and_a_limit_holds(tmp_path):
    first = made()
    assert abs(sum(B.sizes(first).values()) - len(first.to_bytes())) < 4000  # names and offsets of the arrays
    with pytest.raises(B.BundleError, match=r"would have .* MB \(.*maps.*above the limit.*fewer rows"): first.write(tmp_path / "a", limit=500)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("store", B.STORES)
def test_rows_that_sum_to_more_than_one_are_no_attention(store):
    make = lambda total: B.bundle_of(["a", "b"], {"m": {0: np.full((2, 4), total / 4)}}, {"p": Image.new("RGB", (8, 8))}, store=store)
    assert make(1).values("m", 0).sum(1) == pytest.approx([1, 1], rel=2e-3)
    for total in (1.22, 5):
        with pytest.raises(B.BundleError, match=f"sums to at most 1, found {total:.3g}"): make(total)


def test_every_model_has_its_mean_attention():
    whole = made()
    with pytest.raises(B.BundleError, match="found none of 'small'"): replace(whole, maps=tuple(m for m in whole.maps if m.model == "big"), plans=())
    assert [m.name for m in B.pick(whole, methods=("attention",), layers={"big": (2,)}).models] == ["big"]


def test_carried_rows_follow_when_rows_are_picked():
    whole = made()
    whole = replace(whole, models=tuple(replace(m, carried=(1, 3)) for m in whole.models))
    assert {m.carried for m in B.pick(whole, rows=(3, 0)).models} == {(0,)}


def test_expected_bytes_of_a_recording_bound_its_maps():
    m = made().find("small")
    assert m.codes.nbytes + m.scale.nbytes <= B.expected_bytes(3, 5, 2)


@pytest.mark.parametrize("name", [c.name for c in DRIVING])
def test_presets_are_the_layers_of_the_loss(name):
    [plan] = [p for p in made().plans if p.capability == name]
    signal = next(c.signal for c in DRIVING if c.name == name)
    assert plan.pairs == layer_plan(signal, 3, 4) and [s for s, _ in plan.pairs] == list(layer_indices(signal.layers, 3))


def test_picking_keeps_numbers_and_renumbers_rows():
    whole, part = made(), B.pick(made(), rows=(4, 1), layers={"big": (2,)}, heads=False)
    assert [t.text for t in part.tokens] == ["Yes", "the"] and [m.name for m in part.models] == ["big"] and part.plans == ()
    of = {row: part.values("big", 2)[place] for place, row in enumerate(part.find("big").rows)}
    assert np.array_equal(of[0], whole.values("big", 2)[4]) and np.array_equal(of[1], whole.values("big", 2)[1])


def test_picking_layers_keeps_only_plans_that_have_theirs():
    whole = made()
    [plan] = [p for p in whole.plans if p.capability == "planning"]
    [(s, t)] = plan.pairs
    assert [p.capability for p in B.pick(whole, layers={"big": t, "small": (s,)}).plans] == ["planning"]
    assert B.pick(whole, layers={"big": (0,), "small": (2,)}).plans == ()


@pytest.mark.parametrize(("change", "message"), [
    (dict(picture=[0.9]), "whole numbers"), (dict(overview=[0.5]), "True or False"), (dict(boxes=[[0, 0, 1, 2]]), "leads outside"), (dict(boxes=[[0.6, 0, 0.5, 1]]), "turned round"), (dict(picture=[0, 1]), "one picture, box"), (dict(boxes=[[0, 0, np.nan, 1]]), "leads outside")])
def test_geometry_refuses_boxes_that_are_none(change, message):
    with pytest.raises(B.BundleError, match=message): B.Geometry(**{"picture": [0], "boxes": [[0, 0, 1, 1]], "overview": [False], **change})


def test_the_shipped_bundle_is_small_and_complete():
    shipped = B.read(SHIPPED)
    assert shipped.to_bytes() == SHIPPED.read_bytes(), "written by another version: make it again, data/explorers/README.md has the command"
    assert SHIPPED.stat().st_size <= 1_700_000 and len(shipped.cameras) == 6
    assert [m.role for m in shipped.models] == ["teacher"] * 3 + ["student"] * 3 and {p.capability for p in shipped.plans} == {"perception", "reasoning", "planning"}
    assert {m.method for m in shipped.maps} == set(B.METHODS) and any(m.head is not None for m in shipped.maps)
    for m in shipped.maps:
        if m.share is not None: assert np.allclose(m.share.sum(2), 1, atol=1e-4) and np.allclose(m.values.sum(2), m.share[..., 0], rtol=1e-3, atol=1e-4)
        if m.method == "rollout": assert (m.values.sum(2) <= 1.001).all()


def test_reading_a_bundle_imports_no_torch():
    code = f"import sys; from drivekd.workbench.bundle import read; from drivekd.workbench.explorers import AttentionExplorer; AttentionExplorer(read({str(SHIPPED)!r})).page(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_rows_belong_to_the_words_that_they_are_said_to_belong_to():
    maps = {"m": {0: np.full((2, 8), 1 / 8)}}
    with pytest.raises(B.BundleError, match="2 rows for 4 words; .* rows=… which words"): B.bundle_of("a b c d".split(), maps, PICTURES, answer_from=2)
    bundle = B.bundle_of("a b c d".split(), maps, PICTURES, rows=[2, 3], answer_from=2)
    assert bundle.maps[0].rows == (2, 3) and [bundle.tokens[r].role for r in bundle.maps[0].rows] == ["answer"] * 2


@pytest.mark.parametrize("start", [99, 5, -1, True, "2", 2.0], ids=str)
def test_an_answer_begins_at_one_of_the_words(start):
    with pytest.raises(B.BundleError, match="answer_from .*, from 0 to 4, found .*; leave it out"): B.bundle_of("a b c d".split(), {"m": {0: np.full((4, 8), 1 / 8)}}, PICTURES, answer_from=start)


def test_plain_arrays_come_as_people_have_them(tmp_path):
    torch = pytest.importorskip("torch")
    Image.new("RGB", (32, 18), "#123").save(tmp_path / "back.png")
    pictures = {"front": np.zeros((18, 32, 3), np.uint8), "back": tmp_path / "back.png"}
    bundle = B.bundle_of(["a"], {"m": {0: torch.full((1, 16), 1 / 16, dtype=torch.bfloat16)}}, pictures, {"m": None}, grid=(2, 4))
    assert bundle.models[0].geometry.boxes[5].tolist() == [.25, .5, .5, 1] and np.allclose(bundle.values("m", 0), 1 / 16, atol=1e-3)
    with pytest.raises(B.BundleError, match=r"a file that is there, found .*none\.png; correct the path\.$"):
        B.bundle_of(["a"], {"m": {0: np.full((1, 4), 1 / 4)}}, {"front": tmp_path / "none.png"})
    for wrong, said in (({"m": np.zeros((1, 1, 8))}, "given by layer"), ({"m": {0: np.zeros((1, 9))}}, "do not make 2 × 4")):
        with pytest.raises(B.BundleError, match=said): B.bundle_of(["a"], wrong, pictures, grid=(2, 4))
    with pytest.raises(B.BundleError, match=r"must be a Geometry\("): B.bundle_of(["a"], {"m": {0: np.zeros((1, 8))}}, pictures, ([], [], []))
    with pytest.raises(B.BundleError, match="uint8 of shape"): B.bundle_of(["a"], {"m": {0: np.zeros((1, 4))}}, {"front": np.zeros((2, 2))})


@pytest.mark.parametrize("options", [{"roles": {"m": "god"}}, {"roles": {"nobody": "student"}}, {"words": [1, 2]}], ids=str)
def test_what_is_said_of_nobody_is_refused(options):
    asked = {"words": ["a", "b"], "maps": {"m": {0: np.full((2, 4), 0.1)}}, "pictures": {"p": Image.new("RGB", (8, 8))}}
    assert B.bundle_of(**asked)
    with pytest.raises(B.BundleError): B.bundle_of(**{**asked, **options})


@pytest.mark.parametrize("options", [{"rows": [99]}, {"layers": {"nobody": [0]}}, {"layers": {"big": [44]}}, {"methods": ["guess"]}, {"layers": {"big": 3}}, {"layers": {"big": [True]}}, {"layers": [2]},
                                     {"rows": 3}, {"rows": [True]}, {"jpeg_width": 0}, {"jpeg_width": True}], ids=str)
def test_what_is_not_there_cannot_be_picked(options):
    with pytest.raises(B.BundleError): B.pick(made(), **options)


def test_rows_are_picked_once():
    with pytest.raises(B.BundleError, match=r"^rows are different places in the table of 5 tokens, counted from 0, found \[3, 3\]"): B.pick(made(), rows=[3, 3])


@pytest.mark.parametrize("layers", [["0"], [0, "1"], [True], [None]], ids=str)
def test_layers_of_arrays_are_counted(layers):
    with pytest.raises(B.BundleError, match="layers of 'm' are whole numbers, counted from 0, found"): B.bundle_of(["a"], {"m": {l: np.full((1, 8), 1 / 8) for l in layers}}, PICTURES)


def test_boxes_that_were_divided_with_rounding_end_at_the_edge():
    assert B.Geometry([0], [[-5e-5, 0, 1 + 5e-5, 1]], [False]).boxes.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(("depth", "message"), [({"m": 0}, "depth is the number of layers of m, found"), ({"n": 4}, "depth is the number of layers of m, found"), ({"m": 5}, "must exist: 1 tokens, 5 layers"), (None, None)])
def test_how_many_layers_a_model_has_is_said_or_unknown(depth, message):
    make = lambda **more: B.bundle_of(["a"], {"m": {l: np.full((1, 8), 1 / 8) for l in (0, 5)}}, PICTURES, depth=depth, **more)
    if message:
        with pytest.raises(B.BundleError, match=message): make()
        return
    assert make().models[0].layers is None and B.from_bytes(make().to_bytes()) == make()


def test_a_recipe_needs_to_know_how_many_layers_there_are():
    with pytest.raises(B.BundleError, match="found no number for big; give depth={'big': …}"): made(depth={"small": 3})
