"""Camera names and object tags: nothing is guessed, both scales are told apart, text stays text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivekd.data import cameras as c

NUMBERS = st.floats(0, 1600, allow_nan=False).map(lambda v: round(v, 4))


@pytest.mark.parametrize("camera", c.CAMERAS)
@pytest.mark.parametrize(
    "form", ["{}", "samples/{}/x.jpg", "n008__{}__153.jpg", "./BitError/{}/x.jpg", "samples/{0}/n__{0}__1.jpg", r"samples\{}\x.jpg"]
)
def test_a_camera_is_found_by_its_own_name_only(camera, form):
    assert c.camera_of(form.format(camera)) == camera


@pytest.mark.parametrize(
    "name",
    ["", "100k/train/9afb.jpg", "CAM_FRONTAL/x.jpg", "MY_CAM_FRONT/x.jpg", "cam_front/x.jpg", "samples/CAM_BACK/n__CAM_FRONT__1.jpg"],
)
def test_no_camera_is_guessed(name):
    assert c.camera_of(name) is None


@given(st.sampled_from("co"), st.integers(0, 999), st.sampled_from(c.CAMERAS), NUMBERS, NUMBERS, st.sampled_from(["", " "]))
def test_every_tag_of_the_grammar_is_read(kind, number, camera, x, y, space):
    text = f"see <{kind}{number},{space}{camera},{space}{x:.4f},{space}{y:.4f}>."
    (tag,) = c.parse_tags(text)
    assert (tag.id, tag.camera, tag.x, tag.y) == (f"{kind}{number}", camera, x, y)
    assert text[slice(*tag.span)] == text[4:-1]


@given(st.sampled_from(c.CAMERAS), st.floats(0.01, 1), st.floats(0.01, 1))
def test_scales_round_trip(camera, x, y):
    tag = c.ObjectTag("c1", camera, x, y, "normalised", (0, 0))
    back = c.normalise(c.to_pixels(tag))
    assert math.isclose(back.x, x) and math.isclose(back.y, y) and back.scale == "normalised"


@given(st.text(alphabet="<>co1,. CAM_FRONTBK", max_size=60))
def test_whatever_is_no_tag_stays_text(text):
    assert c.normalise_text(text).count("<") <= text.count("<")
    spans = [t.span for t in c.parse_tags(text)]
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


@pytest.mark.parametrize(
    "text",
    [
        "<c4,CAM_FRONT,0.8441,0.83",
        "<c1,CAM_ROOF,1,2>",
        "<c1,CAM_FRONT,0.1>",
        "<c,CAM_FRONT,1,2>",
        "<image>",
        "<img>a</img>",
        "<c1,CAM_FRONT,nan,inf>",
        "<c1,CAM_FRONT,1e3,2>",
        "< >",
        "<c1,CAM_FRONT,٣,٤>",
        "<c1 CAM_FRONT>",
    ],
)
def test_broken_tags_stay_text(text):
    assert c.parse_tags(text) == [] and c.normalise_text(text) == text


@pytest.mark.parametrize(
    "x,y,scale",
    [
        (0.4678, 0.6772, "normalised"),
        (767.5, 513.3, "pixel"),
        (4.32, 0.85, "invalid"),
        (0, 0, "normalised"),
        (1, 1, "normalised"),
        (1600, 900, "pixel"),
        (1600.1, 20, "invalid"),
        (20, 900.1, "invalid"),
        (-0.1, 0.5, "invalid"),
        (0.5, 655, "invalid"),
    ],
)
def test_the_scale_is_decided_by_both_numbers(x, y, scale):
    assert c.point_scale(x, y) == scale


def test_published_pixel_and_normalised_tags_of_one_object_agree():
    assert (
        c.normalise_text("<c1,CAM_BACK,1088.3,497.5> <c2,CAM_BACK,864.2,468.3>")
        == "<c1,CAM_BACK,0.6802,0.5528> <c2,CAM_BACK,0.5401,0.5203>"
    )


def test_bdd_frames_use_their_own_size():
    (tag,) = c.parse_tags("<c1,CAM_FRONT,640,360>")
    assert (c.normalise(tag, (1280, 720)).x, c.normalise(tag, (1280, 720)).y) == (0.5, 0.5)


def test_six_cameras_see_the_whole_ring():
    for degree in range(360):
        assert any(abs((degree - yaw + 180) % 360 - 180) <= fov / 2 for yaw, fov in c.CAMERA_GEOMETRY.values())


def test_a_hostile_text_costs_linear_time():
    for text in ("<" * 300_000, "< " * 150_000, "<c1" + " " * 300_000, "<1." + "1" * 300_000, ("<c1," + " " * 500) * 500):
        assert c.parse_tags(text) == []
