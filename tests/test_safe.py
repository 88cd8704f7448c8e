"""Foreign strings are shown, never run and never lost: the corpus of strings that broke other viewers."""

import html
import json
import re
from html.parser import HTMLParser

import pytest
from hostile import CORPUS

from drivekd.workbench.safe import html_text, plotly_text, script_json


class Tags(HTMLParser):
    """Counts what a browser would build."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, attrs))

    def handle_endtag(self, tag):
        self.tags.append(("/" + tag, []))

    def handle_comment(self, data):
        self.tags.append(("!", []))

    def handle_data(self, data):
        self.text += data


def parsed(markup):
    tags = Tags()
    tags.feed(markup)
    tags.close()
    return tags


@pytest.mark.parametrize("text", CORPUS, ids=lambda s: repr(s[:20]))
class TestCorpus:
    def test_html_shows_exactly_the_text_and_builds_no_element(self, text):
        found = parsed(f"<p>{html_text(text)}</p>")
        assert found.text == text and [t for t, _ in found.tags] == ["p", "/p"]

    def test_html_stays_inside_a_quoted_attribute(self, text):
        for quote in "\"'":
            (tag, attrs), *rest = parsed(f"<p title={quote}{html_text(text)}{quote}>").tags
            assert attrs == [("title", text)] and not rest

    def test_plotly_gets_entities_only(self, text):
        safe = plotly_text(text)
        assert not re.search(r"[<>$%]", safe) and html.unescape(safe) == " ".join(text.splitlines())

    def test_script_json_is_equal_json_without_markup(self, text):
        safe = script_json({text: [text]})
        assert json.loads(safe) == {text: [text]} and not re.search("[<>&\u2028\u2029]", safe)
        assert parsed(f"<script>const x = {safe}</script>").tags == [("script", []), ("/script", [])]


@pytest.mark.parametrize("control", ["\x00", "\x07", "\x1b[31m", "\ud800", "\x85"])
def test_control_characters_are_drawn_not_dropped(control):
    assert "\ufffd" in html_text(f"a{control}b") and "\ufffd" in plotly_text(f"a{control}b") or control == "\x85"
    html_text(control).encode("utf-8")


def test_values_that_are_no_text_are_shown_as_text():
    assert (html_text(3), html_text(None), plotly_text(0.5)) == ("3", "None", "0.5")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_script_json_refuses_what_json_cannot_say(value):
    with pytest.raises((ValueError, TypeError)):
        script_json(value)
