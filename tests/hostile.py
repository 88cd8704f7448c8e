"Foreign strings that broke other viewers: whatever shows text must show these, run none of them and lose none."

TAG = "<c1,CAM_FRONT,0.46,0.67>"  # an object tag of DriveBench; a browser takes it for an element and drops it
RUNS = "<img src=x onerror=alert(1)>"
NAME = f"</td></script><script>alert(1)</script>{RUNS} {TAG} <b> $x$ %{{x}} \U0001f697 & \" ' \u202e"  # many at once, as the name of something

CORPUS = [
    "<s>",
    "</s>",
    "<b>bold</b>",
    "<b>",
    "<image>",
    "<|im_start|>",
    "<|im_start|>user",
    TAG,
    "</script>",
    "</ScRiPt >",
    "<!--",
    "-->",
    "]]>",
    "$x$",
    "$\\href{javascript:alert(1)}{x}$",
    "%{x}",
    "%{customdata[0]}",
    "&lt;",
    "&amp;lt;",
    "&#60;script&#62;",
    '"',
    "'",
    "` onload=alert(1)",
    RUNS,
    '" onmouseover="alert(1)',
    "javascript:alert(1)",
    "[x](javascript:alert(1))",
    "![x](https://example.com/x.png)",
    "<a href='javascript:alert(1)'>x</a>",
    "שלום <c1,CAM_BACK,0.1,0.2>",
    "\u202egnp.exe",
    "汽车 \U0001f697",
    "a red \U0001f697 there",  # one character for Python, two for JavaScript
    "a\tb",
    "x" * 10_000,
    "<" * 10_000,
    "\u2028\u2029",
    "",
    "What is <c1,CAM_FRONT,1015.8,520.8> doing?",
    "{{template}} {0} %s",
    "\\u003c",
    "<svg/onload=alert(1)>",
    "<br>",
    "<sub>1</sub>",
]
LINES = [text for text in CORPUS if text and len(text) < 100 and "\t" not in text and not text.isspace()]  # those that stand in one line as they are
