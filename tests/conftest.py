"What every test starts from: no network, one thread, the same random state, and CUDA tests only where there is CUDA."
import os
import random
import shutil
import signal

# before any import of a hub client: nothing in this suite may ask the network for weights
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers warn after a fork otherwise
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors gain nothing from threads, and on a busy machine threads wait for each other

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C and hands that on


@pytest.fixture(autouse=True)
def same_random_state():
    "Every test may rely on the same draws, whatever ran before it."
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available(): return
    for item in items:
        if item.get_closest_marker("cuda"): item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and this machine has none"))


@pytest.fixture(scope="session")
def pool():
    "Four scenes of the miniature world; nobody may change them."
    from drivekd.study.seeing import collect
    return collect("train", 4)


@pytest.fixture(scope="session")
def processor(pool):
    "A processor whose tokenizer knows the world's words."
    from drivekd.models.miniature import build_processor, train_tokenizer
    from drivekd.study.curriculum import world_texts
    return build_processor(train_tokenizer(world_texts(pool), vocab_size=600))


@pytest.fixture(scope="session")
def student(processor):
    "A random student; whoever trains takes a copy."
    from drivekd.models.families import InternVL
    from drivekd.models.loading import VLM
    from drivekd.models.miniature import build_miniature
    return VLM(build_miniature(processor, "student").eval(), processor, InternVL())


@pytest.fixture(scope="module")
def browser():
    "A headless Chromium, one a module: its event loop would stand in the way of other modules' asyncio.run."
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None: pytest.skip("no Chromium on this machine")
    with api.sync_playwright() as p:
        launched = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def watch():
    "Listens to a tab: what goes wrong in it, what it asks of a network, and a dialog that opens are added to a list."
    def listen(tab, wrong: list) -> list:
        tab.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda e: wrong.append(str(e)))
        tab.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else wrong.append(r.url))
        tab.on("dialog", lambda d: (wrong.append("a dialog opened: foreign text was run"), d.dismiss()))
        return wrong
    return listen


@pytest.fixture(scope="module")
def offline(browser, watch):
    "One tab for all tests: a new one for each costs more than most of them. What goes wrong in it is listed."
    tab = browser.new_page(offline=True)
    tab.wrong = watch(tab, [])
    tab.of = lambda code: tab.evaluate(f"(() => {{ const view = document.querySelector('.dk').view; return {code}; }})()")
    return tab


@pytest.fixture
def opened(offline, tmp_path):
    "Opens HTML without a network, as wide as its window; afterwards, nothing may have been asked for and nothing may have gone wrong."
    def go(html, width=1280, height=900):
        (tmp_path / "page.html").write_text(html, encoding="utf-8", errors="surrogatepass")
        offline.mouse.move(0, 0)
        offline.set_viewport_size({"width": width, "height": height})
        offline.goto((tmp_path / "page.html").as_uri())
        offline.wait_for_selector("[data-ready=true]")
        offline.wait_for_function("(v => !v.state.b || v.distances)(document.querySelector('.dk').view)")  # of two models: after the first picture
        assert offline.evaluate("document.documentElement.scrollWidth") <= width
        return offline

    yield go
    offline.goto("about:blank")
    wrong, offline.wrong[:] = [*offline.wrong], []
    assert wrong == []
