"Replies are read for what they mean; silence and contradiction are no answer; no letter is favoured."
import json
import re
import time
from collections import Counter

import pytest
from readme import ROOT

from drivekd.data.formats import Turn
from drivekd.data.records import VQARecord
from drivekd.study.choices import closed_form, parse_options, read_choice, read_yes_no

MOVING = {"A": "Going ahead.", "B": "Stopped.", "C": "Turn left.", "D": "Turn right."}
BEHAVIOUR = {"A": "The ego vehicle is going straight. The ego vehicle is driving fast.", "B": "The ego vehicle is going straight. The ego vehicle is driving slowly.",
             "C": "The ego vehicle is slightly steering to the left. The ego vehicle is driving fast.", "D": "The ego vehicle is steering to the left. The ego vehicle is driving slowly."}

REPLIES = [  # options, reply, letter meant
    # a bare letter in all its clothes
    (MOVING, "B", "B"), (MOVING, "b", "B"), (MOVING, "B.", "B"), (MOVING, "(b)", "B"), (MOVING, "(B)", "B"), (MOVING, "b)", "B"), (MOVING, "[B]", "B"), (MOVING, " B \n", "B"),
    (MOVING, "**B**", "B"), (MOVING, "`C`", "C"), (MOVING, "{D}", "D"), (MOVING, "Ｂ", "B"), (MOVING, "B:", "B"), (MOVING, "\"B\"", "B"), (MOVING, "$\\boxed{B}$", "B"),
    (MOVING, "\\boxed{\\text{C}}", "C"), (MOVING, "<answer>D</answer>", "D"), (MOVING, "Option B", "B"), (MOVING, "option c.", "C"), (MOVING, "Choice (D)", "D"),
    # a letter with words
    (MOVING, "B. Stopped.", "B"), (MOVING, "B: Stopped", "B"), (MOVING, "B - Stopped", "B"), (MOVING, "B) Stopped.", "B"), (MOVING, "B Stopped.", "B"), (MOVING, "(B) Stopped.", "B"),
    (MOVING, "B\nThe car has its brake lights on.", "B"), (MOVING, "B. The object is a van", "B"), (MOVING, "D, because its right indicator is on.", "D"),
    (MOVING, "A. Going ahead.", "A"), (MOVING, "A", "A"), (MOVING, "A, since it keeps its lane", "A"),
    # the project's own templates
    (MOVING, "Final: B. Stopped.\nObject: grey car\nPosition & orientation: front, back visible", "B"), (MOVING, "Final: {B. Stopped.}", "B"), (MOVING, "Final: {B}", "B"),
    (MOVING, "Final: C. Turn left.", "C"), (MOVING, "FINAL - (B)", "B"), (MOVING, "Final: Turn left.", "C"), (MOVING, "Final: B. Stop", "B"),
    (BEHAVIOUR, "Final: C. The ego vehicle is slightly steering", "C"),
    # a statement after much talk
    (MOVING, "It is a car with a blinking light; the answer is C", "C"), (MOVING, "A car is seen in front. The answer is D.", "D"), (MOVING, "The correct answer is: (B)", "B"),
    (MOVING, "Answer: B", "B"), (MOVING, "**Answer:** B. Stopped.", "B"), (MOVING, "Final answer: C", "C"), (MOVING, "The correct option is D.", "D"), (MOVING, "The answer should be B", "B"),
    (MOVING, "I'd say D", "D"), (MOVING, "I would choose C.", "C"), (MOVING, "I think it's B.", "B"), (MOVING, "So B.", "B"), (MOVING, "Therefore, option D is correct.", "D"),
    (MOVING, "A. Going ahead. B. Stopped. C. Turn left. D. Turn right. Answer: B", "B"),
    (MOVING, "The options are A, B, C and D. The brake lights are on. The answer is B.", "B"),
    # denial
    (MOVING, "B, not A", "B"), (MOVING, "Not A, but B", "B"), (MOVING, "The answer is not A. It is B.", "B"), (MOVING, "A is wrong, so D.", "D"), (MOVING, "B rather than C", "B"),
    (MOVING, "It isn't A; it is C.", "C"), (MOVING, "Neither A nor B, so C", "C"), (MOVING, "I exclude A. B.", "B"),
    (MOVING, "I would not choose C", None), (MOVING, "I don't think it's C.", None), (MOVING, "I can't choose C", None), (MOVING, "It cannot be C", None), (MOVING, "C does not fit", None), (MOVING, "C? No.", None),
    (MOVING, "I disagree with A", None), (MOVING, "There is no evidence for A", None), (MOVING, "It never stopped.", None), (MOVING, "unable to turn right", None), (MOVING, "I exclude A and choose C", "C"),
    (MOVING, "Option A is less likely than option B", "B"), (MOVING, "D is not worse than C", None), (MOVING, "Without a doubt B", "B"), (MOVING, "I don't know. Turn left.", "C"),
    (MOVING, "The car is not moving. It is stopped.", "B"), (MOVING, "Unlike A, D fits", "D"),
    # ranges
    (MOVING, "I cannot determine the answer from A to D.", None), (MOVING, "A–D", None), (MOVING, "Out of A through D, C is best", "C"), (MOVING, "A to C are wrong, so D.", "D"), (MOVING, "I changed my mind from A to C", "C"),
    # the option's words
    (MOVING, "Turn right.", "D"), (MOVING, "The object is going ahead.", "A"), (MOVING, "stopped", "B"), (MOVING, "It is not going ahead, it is stopped.", "B"),
    (BEHAVIOUR, "The ego vehicle is going straight. The ego vehicle is driving slowly.", "B"),
    (BEHAVIOUR, "The ego vehicle is slightly steering to the left. The ego vehicle is driving fast.", "C"),
    ({"A": "Keep going at the same speed.", "B": "Slow down."}, "the ego vehicle should slow down", "B"),
    ({"A": "Turn left.", "B": "Slightly turn left."}, "Slightly turn left.", "B"), ({"A": "Yes.", "B": "No."}, "No.", "B"), ({"A": "20", "B": "120"}, "120", "B"),
    # nothing, several, or a contradiction
    (MOVING, "", None), (MOVING, "   \n", None), (MOVING, "A car is turning.", None), (MOVING, "a car", None), (MOVING, "I do not know.", None), (MOVING, "A or B", None), (MOVING, "A/B", None),
    (MOVING, "Both A and C", None), (MOVING, "A, B, C, D", None), (MOVING, "E", None), (MOVING, "None of the above", None), (MOVING, "Neither A nor B.", None),
    (MOVING, "A. Going ahead. B. Stopped. C. Turn left. D. Turn right.", None), (MOVING, "Final: A or B", None), (MOVING, "Final: B. Turn left.", None), (MOVING, "B. Turn left.", None),
    (MOVING, "The answer is A. The answer is B.", None), (MOVING, "<c1,CAM_BACK,0.5,0.5>", None), (MOVING, "The class of the bus is unknown", None), (MOVING, "Turn left or turn right.", None),
    (BEHAVIOUR, "The ego vehicle is going straight.", None), (MOVING, "\ufffd\ufffd\x00", None), (MOVING, "The left turn light of a sedan blinks", None), (MOVING, "ABCD", None),
    (MOVING, "I am a language model", None), (MOVING, "The answer is not A.", None), (MOVING, "Not A.", None), (MOVING, "Vitamin D-rich road", None), (MOVING, "C'est la vie", None),
]


@pytest.mark.parametrize(("options", "reply", "letter"), REPLIES, ids=[r[:40] for _, r, _ in REPLIES])
def test_a_reply_is_read_for_the_letter_it_means(options, reply, letter):
    assert read_choice(reply, options) == letter


# phrasings written before the reader was run on them, with what it read on that first run: nbs/api/study/measured/replies.json
TABLE = json.loads((ROOT / "nbs/api/study/measured/replies.json").read_text(encoding="utf-8"))
BATCHES = ("first", "held out", "held out again", "denials", "denials unseen")
NOT_READ = {  # known, and not mended: the first is a matter of taste, the others stay on the safe side
    "A to D are listed; the first one holds.": None, "Had the brake lights been on I would say B; they are off, so A.": None,
    "The ego vehicle should brake gently and stop.": "B", "The ego vehicle is slightly steering to the right, with normal speed.": None, "Going straight, very fast.": None}


def read(row: dict) -> str | None:
    return read_choice(row["reply"], TABLE["options"][row["options"]]) if row["options"] in TABLE["options"] else read_yes_no(row["reply"])


@pytest.mark.parametrize("batch", BATCHES)
def test_phrasings_written_in_advance_are_read_as_meant(batch):
    rows = [r for r in TABLE["replies"] if r["batch"] == batch]
    assert {r["reply"]: read(r) for r in rows if read(r) != r["means"]} == {reply: letter for reply, letter in NOT_READ.items() if reply in {r["reply"] for r in rows}}


def test_the_table_of_phrasings_is_long_and_favours_no_letter():
    counted = Counter((r["batch"], r["means"]) for r in TABLE["replies"])
    assert sum(n for (batch, _), n in counted.items() if batch == "first") >= 200 and all(sum(n for (b, _), n in counted.items() if b == batch) >= 60 for batch in BATCHES[1:])
    assert all(min(counted[batch, x] for x in "ABCD") > max(counted[batch, x] for x in "ABCD") / 2 for batch in BATCHES)
    assert len({(r["options"], r["reply"]) for r in TABLE["replies"]}) == len(TABLE["replies"])


def test_what_means_nothing_is_never_read_as_a():
    assert not [r["reply"] for r in TABLE["replies"] if r["means"] is None and read(r) == "A"]


def published_letter(reply: str) -> str:
    "DriveBench's rule in our words: the first of the words a, b, c, d that occurs, in this order; else the empty string."
    return next((x.upper() for x in "abcd" if re.search(rf"\b{x}\b", reply.strip().lower())), "")


@pytest.mark.parametrize(("reply", "published", "ours"), [
    ("It is a car with its left light on; the answer is C", "A", "C"), ("B. The object is a van", "A", "B"), ("B, not A", "A", "B"), ("I'd rather not say", "D", None), ("A car", "A", None), ("The car is turning into lane b", "B", None)])
def test_the_published_rule_takes_words_for_letters_ours_does_not(reply, published, ours):
    assert published_letter(reply) == published and read_choice(reply, MOVING) == ours


def test_the_published_rule_counts_two_silences_as_agreement_and_stops_at_d_ours_does_not():
    assert published_letter("") == published_letter("E. Camera crash") == published_letter("E") == ""
    form = closed_form(record("What is wrong? A. Bit error B. Motion blur C. Zoom blur D. Nothing E. Camera crash", "E"))
    assert form.truth == "E" and form.read("E. Camera crash") == "E" and form.read("") is None


def test_the_published_reading_favours_a_ours_favours_nothing():
    wrong = lambda rule: Counter(rule(r) for r in TABLE["replies"] if r["options"] in TABLE["options"] and rule(r) not in (r["means"], None, ""))
    assert wrong(lambda r: published_letter(r["reply"]))["A"] > 50 and sum(wrong(read).values()) <= 1


def test_options_may_be_given_as_a_list():
    assert read_choice("Final: B. Slow.", ["Fast.", "Slow."]) == "B"


@pytest.mark.parametrize("letter", "ABCD")
def test_every_letter_is_read_alike(letter):
    for form in ("{}", "({})", "Final: {}.", "The answer is {}", "Option {}", "{}, because of the lights", "**{}.**", "Final: {{{}}}"):
        assert read_choice(form.format(letter), MOVING) == letter, form


def test_a_long_reply_is_read_quickly():
    assert read_choice("the car is a " * 20_000 + "The answer is B", MOVING) == "B"
    assert read_choice("A" * 200_000, MOVING) is None


@pytest.mark.parametrize("noise", [" ", "no, ", "B ", "not A, ", "no doubt ", "I don't think that it is ", "A to D ", "at first but ", "Answer: ", "~", "<think>", "'", "[x]* ", "- "])
def test_no_reply_takes_long_to_read(noise):
    began = time.process_time()
    read_choice(noise * (10_000 // len(noise)), MOVING), read_yes_no(noise * (10_000 // len(noise)))
    assert time.process_time() - began < 5  # about 0.3 s; squares of the length would take a minute


@pytest.mark.parametrize(("reply", "read"), [
    ("Yes.", "yes"), ("no", "no"), ("No, it is not.", "no"), ("Final: No.", "no"), ("**Yes**", "yes"), ("The answer is yes.", "yes"), ("yes or no", None), ("Yes and no.", None), ("", None), ("nothing", None),
    ("No such action.", None), ("not sure", None), ("north", None), ("Yes, it is a sign; no doubt.", "yes")])
def test_yes_and_no_are_words_not_letters(reply, read):
    assert read_yes_no(reply) == read


# options in questions

@pytest.mark.parametrize(("question", "options"), [
    ("How? A. Going ahead. B. Stopped.", {"A": "Going ahead.", "B": "Stopped."}), ("How?\nA) red\nB) green\nAnswer with the letter.", {"A": "red", "B": "green"}),
    ("How? (A) red (B) green (C) blue", {"A": "red", "B": "green", "C": "blue"}), ("Is object A. moving?", {}), ("How? A. x C. y", {}), ("", {}), ("<c1,CAM_FRONT,0.1,0.2> moves? A: x B: y", {"A": "x", "B": "y"}),
    ("Object A. is a car. How does it move? A. ahead B. back C. left D. right E. not", dict(zip("ABCDE", ("ahead", "back", "left", "right", "not"))))])
def test_options_are_found_in_the_question(question, options):
    assert parse_options(question) == options


# how a record is scored

def record(question="?", answer="B", id="q", capability="perception", images=(), **meta):
    return VQARecord(id, images, (Turn("user", question), Turn("assistant", answer)), capability, (), "drivekd", 0, meta)


def test_the_world_says_its_letter_and_other_files_write_it():
    assert closed_form(record("How?", "Final: C. x", options=["u", "v", "x"], letter="C")).truth == "C"
    form = closed_form(record("How? A. Fast. B. Slow.", "B"))
    assert (form.way, form.truth, form.chance) == ("choice", "B", 0.5)


@pytest.mark.parametrize("answer", ["No such action will lead to a collision.", "Keep going.", "Yes, there is a car.", "North"])
def test_open_questions_are_not_scored(answer):
    assert closed_form(record("What?", answer)).way == "open"


def test_a_choice_whose_true_letter_cannot_be_read_is_open():
    assert closed_form(record("How? A. Fast. B. Slow.", "medium")).way == "open"
    assert closed_form(record("How? A. Fast. B. Slow.", "C")).way == "open"


@pytest.mark.parametrize("doubt", ["I am not sure.", "Not sure.", "Maybe.", "Perhaps", "I don't know", "No.", "unsure"])
def test_an_option_that_is_asked_back_in_doubt_is_no_answer(doubt):
    options = dict(zip("ABCD", ("Going ahead.", "Turn left.", "Turn right.", "Stopped.")))
    assert read_choice(f"A? {doubt}", options) is None
    assert read_choice("Is it A? Yes.", options) == "A" and read_choice("I'm not sure, but A.", options) == "A"
