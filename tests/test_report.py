"""Results are plain JSON; a report is one page that loads nothing and runs nothing that is not ours."""

import hashlib
import json
import re
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from hostile import NAME
from PIL import Image

from drivekd.runs import report as R
from drivekd.runs.identity import REVISION, git_revision, sha256_of
from drivekd.runs.privacy import redact
from drivekd.study.intervals import Interval, paired_difference
from drivekd.workbench.figures import accuracy_bars


class Page(HTMLParser):
    """Elements, attributes that load or run something, and visible text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.loads, self.handlers, self.tags, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "poster") and v]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]

    def handle_data(self, data):
        self.text += data


def full_page():
    counts = {NAME: {"perception": (3, 4), "planning": (0, 0)}}
    fig = R.figure(accuracy_bars({NAME: {NAME: (3, 4)}}), NAME, NAME)
    return R.html_report(
        NAME,
        [
            R.Section(NAME, [NAME, R.accuracy_table(counts, NAME, NAME), fig, R.note(NAME)]),
            R.Section(
                "two",
                [
                    R.qa(NAME, {NAME: NAME}),
                    R.facts({NAME: NAME}),
                    R.details(NAME, NAME),
                    R.picture(Image.new("RGB", (8, 8)), NAME, NAME),
                    fig,
                ],
            ),
        ],
        NAME,
    )


@pytest.fixture(scope="module")
def page():
    return full_page()


def test_page_loads_nothing_from_outside(page):
    found = Page(page)
    assert all(v.startswith(("data:", "#")) for v in found.loads), found.loads
    style = "".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    assert "url(" not in style and "@import" not in style and "link" not in [t for t in found.tags if t == "script"]


def test_page_forbids_the_network_to_its_own_scripts(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src 'none'" in policy and "http" not in policy and "connect-src" not in policy


def test_hostile_text_is_shown_and_never_becomes_an_element(page):
    found = Page(page)
    ours = Page(page.replace(R.html_text(NAME), "x"))
    assert not found.handlers and found.tags == ours.tags and found.text.count("<script>alert(1)</script>") >= 10


def test_plotly_is_included_once_and_only_when_needed(page):
    assert page.count("plotly.js v") == 1 and page.count('class="plotly-graph-div"') == 2
    assert "<script" not in R.html_report("t", [R.Section("s", ["text"])])


def test_every_table_and_figure_says_how_to_reproduce_it(page):
    again = "drivekd run distill -p seed=0"
    pieces = R.table(["a"], [["b"]], reproduce=again), R.picture(Image.new("RGB", (4, 4)), "alt", reproduce=again)
    assert all("How to reproduce" in p and again in p for p in pieces)


def test_plain_paragraphs_and_markup_are_told_apart():
    assert R.paragraph("a\n\nb").count("<p>") == 2 and R.paragraph(R.Html("<em>x</em>")) == "<p><em>x</em></p>"
    assert R.markup("<em>") == "<bdi>&lt;em&gt;</bdi>"


def test_accuracy_table_sums_capabilities_and_shows_intervals():
    html = R.accuracy_table({"m": {"perception": (30, 60), "planning": (15, 40)}})
    assert "50 %</strong> <small>[38, 62] of 60" in html and "45 %</strong> <small>[36, 55] of 100" in html


def test_numbers_with_bounds():
    assert R.between(Interval(0.5, 0.25, 0.75), unit=" s") == "<strong>0.50</strong> s <small>[0.25, 0.75]</small>"


def test_gains_are_marked_only_when_their_interval_excludes_zero():
    better, same = (R.gain(paired_difference([0] * 40, [1] * k + [0] * (40 - k))) for k in (20, 0))
    assert 'class="sure">+50 points' in better and "20 gained, 0 lost" in better and 'class="open">+0 points' in same


def test_cleaning_a_page_finds_no_key_in_plotly_itself(page):
    assert redact(page) == (page, 0)


# --- result.json


def test_result_has_the_published_schema(tmp_path):
    data = tmp_path / "d.json"
    data.write_text("[]")
    path = R.write_result(tmp_path, {"a": np.float32(0.5), "b": np.arange(2), "c": (1, float("nan"))}, {"lr": 5e-5, "path": data}, 3, data)
    result = json.loads(path.read_text())
    assert (
        set(result) == {"schema", "metrics", "params", "seed", "versions", "data", "git"} and result["schema"] == 1 and result["seed"] == 3
    )
    assert result["metrics"] == {"a": 0.5, "b": [0, 1], "c": [1, None]}
    assert result["data"]["sha256"] == hashlib.sha256(b"[]").hexdigest() and result["versions"]["python"]


def test_result_without_data_says_null(tmp_path):
    assert json.loads(R.write_result(tmp_path, {}, {}).read_text())["data"] is None


def test_unknown_objects_and_missing_data_are_one_sentence(tmp_path):
    with pytest.raises(TypeError, match="found a object"):
        R.write_result(tmp_path, {"model": object()}, {})
    with pytest.raises(FileNotFoundError, match="there is no data at"):
        R.write_result(tmp_path, {}, {}, data_path=tmp_path / "none.json")
    assert not (tmp_path / "result.json").exists()


def test_folder_hash_sees_names_and_contents(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_bytes(b"1")
    assert sha256_of(tmp_path / "a") == sha256_of(tmp_path / "b")
    (tmp_path / "b" / "x.jpg").rename(tmp_path / "b" / "y.jpg")
    assert sha256_of(tmp_path / "a") != sha256_of(tmp_path / "b")


def test_git_revision_is_none_outside_a_repository_and_where_nothing_is_tracked(tmp_path):
    assert git_revision(tmp_path) is None
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "site-packages").mkdir()
    assert git_revision(tmp_path / "site-packages") is None


def test_git_revision_notices_changes(tmp_path):
    def git(*a):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@e", *a], check=True, capture_output=True)

    git("init"), (tmp_path / "f").write_text("1"), git("add", "f"), git("commit", "-m", "x")
    assert git_revision(tmp_path)["changed"] is False
    (tmp_path / "f").write_text("2")
    assert git_revision(tmp_path)["changed"] is True and len(git_revision(tmp_path)["revision"]) == 40


def test_a_result_names_the_revision_that_its_run_began_with(tmp_path, monkeypatch):
    monkeypatch.setenv(REVISION, json.dumps({"revision": "then", "changed": False}))
    assert json.loads(R.write_result(tmp_path, {}, {}).read_text())["git"] == {"revision": "then", "changed": False}


def test_report_file_appears_whole(tmp_path):
    path = R.write_report(tmp_path, "t", [R.Section("s", ["text"])])
    assert path.read_text().endswith("</html>\n") and [p.name for p in tmp_path.iterdir()] == ["report.html"]


# --- in a browser


@pytest.mark.parametrize("width", [pytest.param(1280, marks=pytest.mark.slow), 390])
def test_browser_draws_the_page_offline_without_errors_and_without_sideways_scrolling(browser, watch, tmp_path, page, width):
    (tmp_path / "report.html").write_text(page)
    tab = browser.new_page(viewport={"width": width, "height": 900})
    wrong = watch(tab, [])
    tab.goto((tmp_path / "report.html").as_uri())
    tab.wait_for_selector(".js-plotly-plot .main-svg")
    drawn = tab.evaluate("[...document.querySelectorAll('.js-plotly-plot')].map(p => p.querySelectorAll('.bars path').length)")
    wide = tab.evaluate("document.documentElement.scrollWidth")
    tab.close()
    assert wrong == []
    assert len(drawn) == 2 and all(drawn) and wide <= width  # the same figure twice: both are drawn
