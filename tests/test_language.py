"Language scores are those of the caption toolkit, number for number; silence earns nothing."
import json
import os
from pathlib import Path

import pytest

from drivekd.study.language import bleu, cider_d, common_subsequence, language_scores, ngrams, rouge_l, words

# Recorded with pycocoevalcap 1.2 (PTBTokenizer with Java 17, then Bleu(4), Rouge() and Cider() on its tokens): BLEU-1…4 of the corpus, ROUGE-L and CIDEr of each pair
RECORDED = {
    "one pair": (
        ["the car is going left"], [["the car is turning left"]],
        [0.7999999996800004, 0.6324555317648827, 0.5108729546934666, 9.036020031392194e-05], [0.8], [0.0]),
    "driving": (
        ["The car is turning right.", "The light is green, so the ego vehicle should not stop!", "Keep going at a higher speed."],
        [["The car is turning left."], ["The light is red, so the ego vehicle should stop."], ["Keep going at the same speed."]],
        [0.7727272726921488, 0.668856054027136, 0.5806054756953085, 0.46100466604161155], [0.8, 0.8645669291338582, 0.6666666666666666],
        [6.4945268926389605, 5.365994764889628, 3.450741858350553]),
    "tags, brackets, contractions": (
        ["The IDs are <c1,CAM_BACK,1088.3,497.5> and <c2>.", "It isn't (really) the SUV's left-turn lane; wait... 30 km/h, i.e. 8.3 m/s?", "Final: {C. Turn left.}"],
        [["The IDs of these objects are <c1,CAM_BACK,1088.3,497.5>, and <c2,CAM_FRONT,836.3,398.3>."], ["It can't be the driver's right-turn lane, e.g. at 30 km/h."], ["C"]],
        [0.4848484848337925, 0.35957325996895484, 0.28822191876722925, 0.2513375869610209], [0.6368909512761021, 0.4781634938409854, 0.0],
        [2.7736366996240207, 1.0222555806950506, 0.0]),
    "several references": (
        ["a grey car ahead", "stop now", "the the the the"],
        [["a gray car in front", "there is a grey car ahead of us"], ["brake to a stop", "stop", "you should stop right now"], ["the bus", "the red bus is behind the car"]],
        [0.7999999999200001, 0.5855400436980187, 0.5555132241965615, 0.5410822689196355], [0.6288659793814433, 1.0, 0.5], [2.452704067691423, 1.361000462810117, 0.6180862294033489]),
    "empty and repeated": (
        ["", "turn left turn left", "No."], [["turn left"], ["turn left"], ["No."]],
        [0.5999999997600003, 0.44721359529125865, 4.641588831085698e-06, 1.7782794087793094e-08], [0.0, 0.7093023255813954, 1.0], [0.0, 1.8846774598972367, 2.5]),
}


@pytest.mark.parametrize("name", RECORDED)
def test_scores_are_those_of_the_caption_toolkit(name):
    replies, references, four, rouge, cider = RECORDED[name]
    assert bleu(replies, references) == pytest.approx(four, rel=1e-12)
    assert [rouge_l(a, b) for a, b in zip(replies, references)] == pytest.approx(rouge, rel=1e-12)
    assert cider_d(replies, references) == pytest.approx(cider, rel=1e-12)


@pytest.mark.parametrize(("reply", "reference", "f"), [  # recorded with rouge-score 0.1.2, whose beta is 1
    ("the car is going left", "the car is turning left", 0.8), ("stop", "the ego vehicle should stop now", 0.2857142857142857),
    ("keep going at a higher speed", "keep going at the same speed please", 0.6153846153846153)])
def test_rouge_l_with_beta_one_is_that_of_rouge_score(reply, reference, f):
    assert rouge_l(reply, reference, beta=1) == pytest.approx(f, rel=1e-12)


@pytest.mark.parametrize(("text", "tokens"), [  # recorded with the toolkit's PTBTokenizer
    ("It's a car (white), isn't it? I can't cannot gonna.", "it 's a car -lrb- white -rrb- is n't it i ca n't can not gon na"),
    ("<c1,CAM_FRONT,0.4678,0.6772> and <c1> <o1, CAM_BACK, 526.0, 672.0> <answer>B</answer>", "< c1 cam_front ,0.4678,0.6772 > and <c1> < o1 cam_back 526.0 672.0 > <answer> b </answer>"),
    ("\"Back up.\" 'Stopped' he said: \"no\"", "back up stopped he said no"), ("at 30 km/h, i.e. 8.3 m/s, and/or e.g. slower... etc. vs. 5%.", "at 30 km/h i.e. 8.3 m/s and/or e.g. slower etc. vs. 5 %"),
    ("**Answer:** B - A – B — D_E #1 & co; $5 1,000 12:30 3/4 10m", "** answer ** b a b d_e # 1 & co $ 5 1,000 12:30 3/4 10m"), ("The answer is C. Turn left.", "the answer is c. turn left"),
    ("I choose B. It is stopped. B.", "i choose b it is stopped b."), ("A.Going ahead. end.Start", "a.going ahead end.start"), ("No.1 no. 5 -5 +3 a-1 x,1 (0.5,0.6) .5", "no. 1 no. 5 -5 +3 a-1 x ,1 -lrb- 0.5,0.6 -rrb- .5"),
    ("mid-sized SUV's drivers' O'Neil they're we've", "mid-sized suv 's drivers o'neil they 're we 've"), ("答案是B。 Größe café “quoted” → x=3 a+b [x] {y}", "答案是b 。 größe café quoted → x = 3 a + b -lsb- x -rsb- -lcb- y -rcb-"),
    ("notice first.2. It is", "notice first .2 it is"), ("", ""), ("...", "")])
def test_words_are_those_of_the_treebank_tokenizer(text, tokens):
    assert " ".join(words(text)) == tokens


def test_silence_earns_nothing_even_where_nothing_was_expected():
    silent = language_scores(["", "..."], ["stop", ""])
    assert silent.bleu == (0, 0, 0, 0) and silent.rouge_l == 0 and silent.cider == 0


def test_a_copy_has_all_words():
    texts = ["the car ahead is turning left", "the light is red so stop now", "keep going at the same speed"]
    copied = language_scores(texts, texts)
    assert copied.bleu == pytest.approx([1] * 4) and copied.rouge_l == 1 and copied.cider == pytest.approx(10)


def test_the_order_of_the_questions_does_not_matter():
    replies, references, *_ = RECORDED["driving"]
    assert cider_d(replies[::-1], references[::-1])[::-1] == pytest.approx(cider_d(replies, references))
    assert bleu(replies[::-1], references[::-1]) == pytest.approx(bleu(replies, references))


def test_a_second_reference_never_lowers_rouge():
    assert rouge_l("stop now", ["go on", "stop now please"]) >= rouge_l("stop now", "go on")


def test_a_single_question_has_no_rare_words():
    assert cider_d(["turn left"], ["turn left"]) == [0]


def test_counts_of_runs_shrink_by_one():
    assert [c.total() for c in ngrams("a b c d e".split())] == [5, 4, 3, 2]
    assert common_subsequence("a b c d".split(), "b d c".split()) == 2


@pytest.mark.parametrize("texts", [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_replies_and_references_come_in_pairs(texts):
    with pytest.raises(ValueError, match="every reply needs its reference"): language_scores(*texts)


def test_a_long_reply_is_scored_quickly_and_says_little():
    assert common_subsequence(words("the car is " * 700), words("the car is turning left")) == 3
    assert rouge_l("the car is " * 700, "the car is turning left") < 0.01


REAL = os.environ.get("DRIVEKD_REALDATA")


@pytest.mark.skipif(not REAL, reason="set DRIVEKD_REALDATA to a folder of real files to score DriveLM's own baseline replies")
def test_real_replies_score_as_with_the_toolkit():
    rows = json.loads((Path(REAL) / "formats" / "drivelm_output_llama_adapter.json").read_text())
    scored = language_scores([r["answer"] for r in rows], [r["gt_answer"] for r in rows])
    assert scored.bleu == pytest.approx([0.09303525365432622, 0.04639310491536604, 0.027177011447202016, 0.017785442499488782], rel=1e-12)
    assert (scored.rouge_l, scored.cider) == pytest.approx((0.08109340325215723, 0.003104487574595193), rel=1e-12)
