"Corrupted cameras: the same for every run, of the right size and effect, and never a clean picture under a false name."
import colorsys
import json
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from drivekd.data.cameras import CAMERAS
from drivekd.data.corruptions import (
    FAMILIES,
    SETTINGS,
    at_setting,
    corrupt,
    generator,
    hit_cameras,
    load_corrupted,
    setting_of,
    write_corrupted,
)
from drivekd.data.images import ImageRef, load_image
from drivekd.data.records import read_records

each_setting = pytest.mark.parametrize("name", SETTINGS)
PICTURE = [name for name, s in SETTINGS.items() if s.reach == "picture" and s.family != "reference"]


def street(width=320, height=180) -> Image.Image:
    "Sky, road, a line, a red box and some texture."
    y, x = np.mgrid[:height, :width] / [[[height]], [[width]]]
    rgb = np.stack([90 + 60 * (y < .5), 100 + 70 * (y < .5), 100 + 110 * (y < .5)], -1) + 12 * np.sin(60 * x + 40 * y)[..., None]
    rgb[(abs(x - .5) < .02 + .1 * (y - .5)) & (y > .5)] = 240
    rgb[(abs(x - .25) < .08) & (abs(y - .5) < .15)] = (190, 40, 30)
    return Image.fromarray(rgb.clip(0, 255).astype(np.uint8))


def pixels(image) -> np.ndarray: return np.asarray(image, float)
def edges(image) -> float: return np.square(np.diff(pixels(image), axis=1)).mean() + np.square(np.diff(pixels(image), axis=0)).mean()
def spoiled(name, image=None, frame="f", camera="CAM_FRONT", seed=0): return corrupt(image or street(), name, frame=frame, camera=camera, seed=seed)


def a_frame_that_is_hit(name) -> str: return next(f for f in map(str, range(50)) if "CAM_FRONT" in hit_cameras(name, f))
def a_seed_that_crashes_the_front() -> int: return next(s for s in range(50) if "CAM_FRONT" in hit_cameras("CameraCrash", "f", s))


def test_there_are_seventeen_settings_in_five_families_and_a_reference():
    assert len(SETTINGS) == 17
    assert {s.family for s in SETTINGS.values()} == {*FAMILIES, "reference"}
    assert {n for n, s in SETTINGS.items() if s.how == "approximation"} == {"BitError", "H265"}


# Every spelling seen in DriveBench: folders, documents, data files, results
SPELLINGS = {
    "clean": ("clean", "Clean"), "NoImage": ("NoImage", "noimage", "text-only"), "Brightness": ("Brightness", "Bright", "bright"), "LowLight": ("LowLight", "lowlight", "dark"),
    "Snow": ("snow",), "Fog": ("fog",), "Rain": ("rain",), "WaterSplash": ("WaterSplashCorruption", "water", "watersplash"), "LensObstacle": ("LensObstacleCorruption", "lens"),
    "CameraCrash": ("CameraCrash", "camcrash", "cameracrash", "Camera Crash"), "FrameLost": ("framelost", "Frame Lost"), "Saturate": ("saturate",), "MotionBlur": ("motion", "motionblur"),
    "ZoomBlur": ("zoom", "ZoomBlur"), "BitError": ("biterror", "Bit error"), "ColorQuant": ("colorquant",), "H265": ("H256ABRCompression", "h256", "h265", "h256abrcompression", "H.265 compression"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_all_spellings_of_drivebench_are_understood(name):
    assert {setting_of(spelling).name for spelling in SPELLINGS[name]} == {name}


def test_no_two_settings_share_a_spelling():
    plain = ["".join(filter(str.isalnum, w.casefold())) for s in SETTINGS.values() for w in {*s.spellings}]
    assert len(set(plain)) == len(plain) - sum(len(s.spellings) - len({w.casefold().replace("-", "") for w in s.spellings}) for s in SETTINGS.values())


def test_an_unknown_setting_is_refused_with_the_known_ones():
    for name in ("sepia", "glass_blur", "Bright2", ""):
        with pytest.raises(ValueError, match="A setting is one of clean, NoImage.* found '" + name): setting_of(name)


@each_setting
def test_same_seed_and_names_make_the_same_picture_and_leave_global_chance_alone(name):
    before = random.getstate(), np.random.get_state()[1].tolist()
    first = spoiled(name)
    spoiled(name, frame="other"), spoiled(name, seed=7)
    assert spoiled(name).tobytes() == first.tobytes()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_another_process_in_another_order_makes_the_same_pictures():
    code = f"""
import hashlib, sys
sys.path.insert(0, {str(__file__.rsplit("/", 1)[0])!r})
from test_corruptions import SETTINGS, spoiled
import numpy; numpy.random.seed(5)
print(*sorted(n + hashlib.md5(spoiled(n).tobytes()).hexdigest() for n in reversed(list(SETTINGS))))
"""
    import hashlib
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted(n + hashlib.md5(spoiled(n).tobytes()).hexdigest() for n in SETTINGS)


@pytest.mark.parametrize("name", ["LowLight", "Snow", "Fog", "Rain", "MotionBlur", "BitError"])
def test_seed_frame_and_camera_each_change_what_falls(name):
    made = [spoiled(name), spoiled(name, seed=1), spoiled(name, frame="g"), spoiled(name, camera="CAM_BACK")]
    assert len({m.tobytes() for m in made}) == 4


def test_keys_do_not_run_into_each_other():
    draws = {generator(*key).integers(2**62) for key in [(1, "2"), ("1", 2), (12,), ("12",), ("1", "2"), (1, None, "2"), ("1\\x002",), ("1", "2", None)]}
    assert len(draws) == 8


@each_setting
@pytest.mark.parametrize("size", [(8, 8), (37, 91), (91, 37), (8, 200), (201, 9), (64, 64)])
def test_any_size_stays_as_it_is(name, size):
    found = spoiled(name, street(*size), frame=a_frame_that_is_hit(name) if SETTINGS[name].reach == "frame" else "f")
    assert (found.size, found.mode) == (size, "RGB")


@each_setting
@pytest.mark.parametrize("level", [0, 255, 77])
def test_even_pictures_are_no_special_case(name, level):
    found = pixels(spoiled(name, Image.new("RGB", (40, 30), (level,) * 3)))
    assert found.shape == (30, 40, 3) and np.isfinite(found).all()


def test_grey_pictures_become_colour_and_other_modes_are_refused_in_one_sentence():
    assert spoiled("Fog", street().convert("L")).mode == "RGB"
    for mode in ("RGBA", "P", "CMYK", "I;16"):
        with pytest.raises(ValueError, match=rf"RGB or grey, found mode {mode}; open it with"): spoiled("Fog", Image.new(mode, (20, 20)))
    with pytest.raises(ValueError, match="at least 8 × 8 pixels, found 7 × 20"): spoiled("Fog", Image.new("RGB", (7, 20)))


@pytest.mark.parametrize("name", PICTURE)
def test_every_setting_changes_the_picture(name):
    assert np.abs(pixels(spoiled(name)) - pixels(street())).mean() > .5


def test_clean_changes_nothing_and_text_only_shows_nothing():
    assert spoiled("clean").tobytes() == street().tobytes()
    assert not pixels(spoiled("NoImage")).any()


def test_light_goes_where_the_name_says():
    clean = pixels(street()).mean()
    assert pixels(spoiled("Brightness")).mean() > clean + 50
    assert pixels(spoiled("LowLight")).mean() < clean / 3
    assert pixels(spoiled("Snow")).mean() > clean + 20


def test_low_light_is_noisier_and_keeps_to_the_value_that_took_effect():
    even = Image.new("RGB", (200, 100), (0, 0, 0))
    even.paste((255, 255, 255), (100, 0, 200, 100))  # the range 0…1 is mapped to 0…0.2
    found = pixels(spoiled("LowLight", even))[:, 100:] / 255
    assert found.mean() == pytest.approx(.2, abs=.01)  # 0.3 is what the author's list was meant to give
    assert found.std() == pytest.approx(np.sqrt(.2 / 30 + .038**2), rel=.1)


@pytest.mark.parametrize("name,change", [("Brightness", lambda h, s, v: (h, s, min(1, v + .4))), ("Saturate", lambda h, s, v: (h, min(1, 20 * s + .2), v))])
def test_light_and_saturation_are_those_of_hsv(name, change):
    "Python's own colour conversion, pixel by pixel; exact greys and black among them."
    rgb = generator("colours").integers(0, 256, (12, 12, 3))
    rgb[0] = np.arange(0, 252, 21)[:, None]
    wanted = [[colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in row] for row in rgb / 255]
    found = pixels(spoiled(name, Image.fromarray(rgb.astype(np.uint8)))) / 255
    assert np.abs(found - wanted).max() < 1.01 / 255


def test_brightness_keeps_hue_and_adds_to_the_value():
    image = Image.new("RGB", (10, 10), (102, 51, 0))
    assert pixels(spoiled("Brightness", image))[0, 0] == pytest.approx([204, 102, 0], abs=1)


def test_saturation_takes_the_smallest_channel_to_zero_and_turns_greys_pink():
    image = Image.new("RGB", (10, 10), (200, 190, 180))
    image.paste((100, 100, 100), (5, 0, 10, 10))
    found = pixels(spoiled("Saturate", image))
    assert found[0, 0] == pytest.approx([200, 100, 0], abs=1) and found[0, 9] == pytest.approx([100, 80, 80], abs=1)


def test_colours_have_one_bit():
    assert set(np.unique(pixels(spoiled("ColorQuant")))) <= {0, 128}


@pytest.mark.parametrize("name", ["MotionBlur", "ZoomBlur", "WaterSplash", "LensObstacle", "Fog"])
def test_blur_and_haze_take_edges_away(name):
    assert edges(spoiled(name)) < .9 * edges(street())


@pytest.mark.parametrize("name", ["LowLight", "Snow", "Rain"])
def test_particles_add_edges_relative_to_contrast(name):
    found = spoiled(name)
    assert edges(found) / pixels(found).var() > edges(street()) / pixels(street()).var()


def test_motion_blur_keeps_light_and_smears_along_one_direction():
    dot = Image.new("RGB", (160, 90))
    dot.paste((255, 255, 255), (78, 43, 82, 47))
    found = pixels(spoiled("MotionBlur", dot, frame="x"))[..., 0]
    assert found.sum() == pytest.approx(pixels(dot)[..., 0].sum(), rel=.05)
    y, x = np.nonzero(found > 2)
    assert np.ptp(x) >= np.ptp(y)  # within 45° of the horizon


def test_zoom_blur_keeps_the_centre():
    y, x = np.indices((180, 320))
    checks = Image.fromarray(np.uint8((y // 6 + x // 6) % 2 * 255)[..., None].repeat(3, 2))
    change = np.abs(pixels(spoiled("ZoomBlur", checks)) - pixels(checks)).mean(2)
    assert change[84:96, 154:166].mean() < change[:12, :12].mean() / 3


def test_rain_halves_contrast_and_falls_from_top_to_bottom():
    grey = Image.new("RGB", (640, 360), (60, 60, 60))
    found = pixels(spoiled("Rain", grey))[..., 0]
    assert np.abs(np.diff(found, axis=0)).mean() < np.abs(np.diff(found, axis=1)).mean() / 3
    assert pixels(spoiled("Rain")).std() < .6 * pixels(street()).std()


def test_fog_is_the_published_blend():
    "(x + 3 h) · m / (m + 3) of a picture with maximum m: black and white move to the same range."
    image = Image.new("RGB", (64, 64), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 32, 64))
    found = pixels(spoiled("Fog", image)) / 255
    assert found[:, 32:].max() <= .75 + .01 and found[:, :32].min() >= .25 - .01


def test_obstacle_is_one_part_of_the_picture():
    changed = np.abs(pixels(spoiled("LensObstacle")) - pixels(street())).max(2) > 2
    assert .01 < changed.mean() < .9


def test_damaged_slices_end_where_the_next_begins():
    "Rows of 16 pixels (one slice) are either hit or not; about half are."
    plain = street(640, 640)
    hit = np.abs(pixels(spoiled("BitError", plain)) - pixels(plain)).reshape(40, 16, -1).mean((1, 2)) > 3
    assert 2 <= hit.sum() <= 22


@pytest.mark.parametrize("frame", range(25))
def test_broken_bits_always_decode(frame):
    assert spoiled("BitError", street(90, 50), frame=str(frame)).size == (90, 50)


def test_low_rate_keeps_to_its_bytes_and_is_worse_than_jpeg():
    loss = np.abs(pixels(spoiled("H265")) - pixels(street())).mean()
    assert 1 < loss < 25


def test_lengths_follow_the_size_of_the_picture():
    "The same picture, larger: spoiled and then scaled down it looks about the same."
    large, small = (pixels(spoiled("WaterSplash", street(w, h)).resize((160, 90), Image.Resampling.BOX)) for w, h in ((640, 360), (320, 180)))
    assert abs(large.mean() - small.mean()) < 2 and abs(large.std() - small.std()) < 3


def test_splash_and_dirt_hit_the_front_and_one_to_five_others():
    for name in ("WaterSplash", "LensObstacle"):
        found = [hit_cameras(name, str(f)) for f in range(300)]
        assert all(cameras[0] == "CAM_FRONT" for cameras in found)
        assert {len(cameras) for cameras in found} == {2, 3, 4, 5, 6}


def test_crashed_cameras_stay_crashed_and_never_exceed_four():
    found = [hit_cameras("CameraCrash", "a", seed) for seed in range(200)]
    assert {len(c) for c in found} <= {1, 2, 3, 4} and max(map(len, found)) == 4
    assert all(hit_cameras("CameraCrash", frame, 3) == found[3] for frame in "bcd")


def test_frames_are_lost_two_thirds_of_the_time():
    lost = sum(len(hit_cameras("FrameLost", str(f))) for f in range(500)) / 3000
    assert lost == pytest.approx(4 / 6, abs=.03)


@pytest.mark.parametrize("name", ["WaterSplash", "LensObstacle", "CameraCrash", "FrameLost"])
def test_cameras_that_are_not_hit_stay_clean_and_must_be_named(name):
    frame, seed = next((f, s) for s in range(9) for f in "abcdef" if 0 < len(hit_cameras(name, f, s)) < 6)
    hit = {c for c in CAMERAS if spoiled(name, frame=frame, camera=c, seed=seed).tobytes() != street().tobytes()}
    assert hit == set(hit_cameras(name, frame, seed))
    for camera in (None, "CAM_TOP"):
        with pytest.raises(ValueError, match=f"{name} hits some cameras of a frame, so `camera` must be one of"): spoiled(name, camera=camera)


def test_crashed_cameras_are_black():
    assert not pixels(spoiled("CameraCrash", seed=a_seed_that_crashes_the_front())).any()


@pytest.fixture
def records(tmp_path):
    for camera in CAMERAS:
        (tmp_path / "samples" / camera).mkdir(parents=True)
        street(64, 36).save(tmp_path / "samples" / camera / f"n__{camera}__1.jpg")
    row = {"question": "What is ahead?", "answer": "A box.", "images": [f"samples/{c}/n__{c}__1.jpg" for c in CAMERAS], "type": "perception"}
    (tmp_path / "quiz.json").write_text(json.dumps([row, row | {"images": row["images"][:1]}]))
    return read_records(tmp_path / "quiz.json")


@pytest.mark.parametrize("name", ["fog", "CameraCrash", "text-only"])
def test_written_pictures_are_read_back_under_the_same_questions(records, tmp_path, name):
    made = write_corrupted(records, name, tmp_path / "corruption", progress=False)
    found = at_setting(records, name, tmp_path / "corruption")
    assert [r.question for r in found] == [r.question for r in records]
    assert all(ref.path.is_relative_to(made) and ref.root == made and ref.camera == old.camera
               for r, o in zip(found, records, strict=True) for ref, old in zip(r.images, o.images, strict=True))
    ref, old = found[0].images[0], records[0].images[0]
    assert np.abs(pixels(load_image(ref)) - pixels(load_corrupted(old, name))).mean() < 3  # JPEG's rounding


def test_writing_goes_on_where_it_was_interrupted(records, tmp_path, monkeypatch):
    import drivekd.data.corruptions as module
    calls = []
    def counted(ref, *rest):
        calls.append(ref.camera)
        if len(calls) == 3: raise KeyboardInterrupt
        return load_corrupted(ref, *rest)
    monkeypatch.setattr(module, "load_corrupted", counted)
    with pytest.raises(KeyboardInterrupt): write_corrupted(records, "fog", tmp_path / "c", progress=False)
    assert not list((tmp_path / "c").rglob("*.part"))
    write_corrupted(records, "fog", tmp_path / "c", progress=False)
    assert len(calls) == 3 + 4 and len(list((tmp_path / "c").rglob("*.jpg"))) == 6


def test_a_folder_has_one_seed_and_strange_pictures_are_left_alone(records, tmp_path):
    write_corrupted(records, "fog", tmp_path / "c", progress=False)
    with pytest.raises(ValueError, match="one seed, .* has 0 and 4 is asked for"): write_corrupted(records, "fog", tmp_path / "c", seed=4)
    (tmp_path / "c" / "Snow" / "CAM_FRONT").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds others"): write_corrupted(records, "snow", tmp_path / "c")


def test_clean_pictures_under_a_false_name_are_refused(records, tmp_path):
    "DriveBench's toolkit evaluates them without a word."
    for ref in records[0].images:
        (tmp_path / "c" / "Fog" / ref.camera).mkdir(parents=True)
        (tmp_path / "c" / "Fog" / ref.camera / ref.path.name).write_bytes(ref.path.read_bytes())
    with pytest.raises(ValueError, match="6 of 6 are copies of the clean ones"): at_setting(records, "Fog", tmp_path / "c")
    (tmp_path / "c" / "Fog").rename(tmp_path / "c" / "camera_crash")
    with pytest.raises(ValueError, match="6 of 6 are copies"): at_setting(records, "camcrash", tmp_path / "c")
    street(64, 36).point(lambda v: 0).save(tmp_path / "c" / "camera_crash" / "CAM_BACK" / "n__CAM_BACK__1.jpg")
    assert len(at_setting(records, "camcrash", tmp_path / "c")) == 2  # some cameras may be as they were


def test_missing_pictures_and_folders_are_named(records, tmp_path):
    with pytest.raises(FileNotFoundError, match="must exist"): at_setting(records, "Fog", tmp_path / "none")
    (tmp_path / "c" / "Fog").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="6 of 6 are missing, the first is .*CAM_FRONT"): at_setting(records, "Fog", tmp_path / "c")
    with pytest.raises(FileNotFoundError, match="named as Rain .* found 0"): at_setting(records, "Rain", tmp_path / "c")
    (tmp_path / "c" / "fog").mkdir()
    with pytest.raises(FileNotFoundError, match="found 2"): at_setting(records, "Fog", tmp_path / "c")


def test_clean_needs_no_folder(records, tmp_path): assert at_setting(records, "clean", tmp_path / "none") == list(records)


def test_two_pictures_never_share_a_file(records, tmp_path):
    other = replace(records[0], images=(ImageRef("CAM_FRONT", tmp_path / "elsewhere" / "n__CAM_FRONT__1.jpg"),))
    with pytest.raises(ValueError, match="need different names"): write_corrupted([records[0], other], "fog", tmp_path / "c", progress=False)


def test_a_link_out_of_the_folder_is_not_followed(records, tmp_path):
    write_corrupted(records, "fog", tmp_path / "c", progress=False)
    made = tmp_path / "c" / "Fog" / "CAM_FRONT" / "n__CAM_FRONT__1.jpg"
    made.unlink()
    street(64, 36).save(tmp_path / "outside.png")
    made.symlink_to(tmp_path / "outside.png")
    [first, _] = at_setting(records, "fog", tmp_path / "c")
    with pytest.raises(ValueError, match="inside the image root"): load_image(first.images[0])
