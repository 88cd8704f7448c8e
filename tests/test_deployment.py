"Deployment: exactly the tokens that were asked for, an honest clock, memory that is never below its bound."
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from readme import ROOT

from drivekd.cli import main
from drivekd.models.batching import Batcher
from drivekd.models.family_miniatures import MINIATURES, miniature_vlm
from drivekd.models.loading import evaluating, load_vlm
from drivekd.study import deployment
from drivekd.study.deployment import (
    Clock,
    Conditions,
    Spread,
    as_text,
    ask,
    deploy,
    kv_bytes,
    measure,
    measure_apart,
    memory_of,
    ratios,
    request,
    spread,
    weight_bytes,
)

STUDENT = str(ROOT / "data" / "miniature" / "student")
SMALL = Conditions(pictures=1, picture_size=(160, 90), text=40, new_tokens=6, warmup=0, repeats=2)


@pytest.fixture(scope="module")
def vlm(): return load_vlm(STUDENT)


@pytest.fixture(scope="module")
def batch(vlm, tmp_path_factory):
    batcher = Batcher(vlm, padding_side="left")
    return batcher(request(batcher, SMALL, tmp_path_factory.mktemp("pictures")), prompt=True)


def row(model="a", peak=1e9, tokens=10., first=1.):
    return {"model": model, "conditions": vars(Conditions()), "prompt_tokens": 512, "first_token_s": spread([first]), "tokens_per_s": spread([tokens]), "prepare_s": spread([.1]),
            "memory_bytes": {"peak": peak, "process": 2 * peak, "weights": peak / 2, "kv_cache": 0, "lower_bound": peak / 2}, "device_name": "CPU", "threads": 1}


@pytest.mark.parametrize("pictures,text,batch", [(0, 60, 1), (2, 70, 3)])
def test_the_prompt_has_the_tokens_that_were_asked_for(vlm, tmp_path, pictures, text, batch):
    conditions = Conditions(pictures=pictures, picture_size=(90, 160), text=text, batch=batch)
    batcher = Batcher(vlm, padding_side="left")
    found = batcher(request(batcher, conditions, tmp_path), prompt=True)
    assert len(found) == batch and found.attention_mask.all()
    assert found.vision_mask.sum(1).tolist() == [64 * pictures] * batch
    assert (~found.vision_mask).sum(1).tolist() == [text] * batch


def test_a_prompt_shorter_than_the_chat_template_is_refused(vlm, tmp_path):
    with pytest.raises(ValueError, match=r"at least \d+ text tokens .* `text` is 3"): request(Batcher(vlm), Conditions(pictures=0, text=3), tmp_path)


@pytest.mark.parametrize("name,value", [("batch", 0), ("pictures", -1), ("new_tokens", 1), ("repeats", 0), ("warmup", -1)])
def test_conditions_that_measure_nothing_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be at least .*, found {value}"): Conditions(**{name: value})


def scripted(vlm, seconds, monkeypatch, batch_size):
    "A model that takes these seconds for each token, on a clock that only it moves."
    now = [100.]
    monkeypatch.setattr(deployment.time, "perf_counter", lambda: now[0])
    def generate(**given):
        ids = torch.zeros(batch_size, 5, dtype=torch.long)
        for s in seconds:
            now[0] += s
            stop = [c(ids, None) for c in given["stopping_criteria"]]
            assert not any(x.any() for x in stop)
    model = SimpleNamespace(device=torch.device("cpu"), generate=generate, training=False, eval=lambda: None, train=lambda mode: None)
    return SimpleNamespace(model=model, processor=vlm.processor)


def test_the_clock_reads_first_token_and_decoding_apart(vlm, monkeypatch):
    slow_start = scripted(vlm, [2., .5, .25, .25], monkeypatch, 3)
    found = ask(slow_start, Three(), 4)
    assert found.first_token_s == pytest.approx(2) and found.tokens_per_s == pytest.approx(3 * 3 / 1.)


class Three:
    "Three prompts."
    def model_inputs(self): return {}
    def __len__(self): return 3


def test_a_model_that_stops_early_is_not_timed(vlm, monkeypatch):
    with pytest.raises(RuntimeError, match="Exactly 4 tokens must be timed, 2 were made"): ask(scripted(vlm, [1., 1.], monkeypatch, 3), Three(), 4)


def test_exactly_so_many_tokens_are_made_though_the_model_wants_to_stop(vlm, batch, monkeypatch):
    "The end-of-turn token is made the most probable one."
    made = []
    generate = type(vlm.model).generate
    monkeypatch.setattr(type(vlm.model), "generate", lambda self, **given: made.append(generate(self, **given)))
    end = vlm.model.generation_config.eos_token_id
    handle = vlm.model.get_output_embeddings().register_forward_hook(lambda m, i, out: out.index_fill(-1, torch.tensor([end]), 1e4))
    ask(vlm, batch, 6)
    handle.remove()
    assert made[0].shape == (1, batch.input_ids.shape[1] + 6) and end not in made[0][0, batch.input_ids.shape[1]:-1]


def test_measuring_leaves_the_model_as_it_was(vlm, batch):
    vlm.model.train()
    ask(vlm, batch, 3)
    assert vlm.model.training
    vlm.model.eval()


def test_clock_waits_for_a_gpu(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    clock = Clock(torch.device("cuda:1"))
    clock(torch.zeros(2, 3, dtype=torch.long), None)
    assert waited == [torch.device("cuda:1")] * 2 and len(clock.readings) == 2


@pytest.mark.parametrize("family", sorted(MINIATURES))
def test_keys_and_values_are_those_of_a_real_cache(family, tmp_path):
    vlm = miniature_vlm(family, ["What is ahead? the"], vocab_size=400)
    batcher, conditions = Batcher(vlm, padding_side="left"), Conditions(pictures=2, picture_size=(160, 90), text=80, new_tokens=2, batch=2, warmup=0, repeats=1)
    batch = batcher(request(batcher, conditions, tmp_path), prompt=True)
    with evaluating(vlm): cache = vlm.model(**batch.model_inputs(), use_cache=True).past_key_values
    per_token = kv_bytes(vlm, len(batch))  # one more token has come when the last of two is made
    kept = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    found = measure(vlm, conditions, memory=False)
    assert found["memory_bytes"]["kv_cache"] == kept + per_token
    assert found["vision_tokens"] == len(batch.columns(0)) == len(batch.encoded[0].patches.boxes) > 2


def test_shared_weights_are_counted_once(vlm):
    assert vlm.model.get_input_embeddings().weight is vlm.model.get_output_embeddings().weight
    stored = sum(t.numel() * t.element_size() for t in {id(t): t for t in (*vlm.model.parameters(), *vlm.model.buffers())}.values())
    assert weight_bytes(vlm) == stored < 2e6


def test_half_precision_halves_weights_and_cache():
    half = load_vlm(STUDENT, "bfloat16")
    assert kv_bytes(half, 100) * 2 == kv_bytes(load_vlm(STUDENT), 100)
    assert weight_bytes(half) < .52 * weight_bytes(load_vlm(STUDENT))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from Linux' /proc")
def test_memory_grows_by_what_a_request_takes(vlm):
    keep = []
    found = memory_of(vlm, lambda: keep.append(torch.ones(64, 2**20).sum()))  # 268 MB for a moment
    assert 250e6 < found["peak"] - weight_bytes(vlm) < 300e6
    assert found["process"] > found["peak"]


def test_memory_of_a_gpu_is_what_pytorch_counts(monkeypatch):
    calls = []
    for name, value in (("reset_peak_memory_stats", None), ("max_memory_allocated", 7), ("max_memory_reserved", 9)):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name, value=value: calls.append(name) or value)
    on_gpu = SimpleNamespace(model=SimpleNamespace(device=torch.device("cuda:0")))
    assert memory_of(on_gpu, lambda: calls.append("request")) == {"peak": 7, "process": 9}
    assert calls[:2] == ["reset_peak_memory_stats", "request"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_measured_like_a_cpu():
    found = measure(load_vlm(STUDENT, "bfloat16", "cuda"), SMALL)
    assert found["memory_bytes"]["lower_bound"] <= found["memory_bytes"]["peak"] <= found["memory_bytes"]["process"]


def test_one_model_is_measured_as_asked(vlm, monkeypatch):
    asked = []
    monkeypatch.setattr(deployment, "ask", lambda *given: asked.append(given[2]) or deployment.Timing(len(asked), 10.))
    found = measure(vlm, Conditions(**{**vars(SMALL), "warmup": 2, "repeats": 3}))
    assert asked == [6] * (2 + 3 + 1) and found["first_token_s"] == (4, 3, 5)  # warm-up does not count
    assert found["prompt_tokens"] == 64 + 40 and found["vision_tokens"] == 64 and found["parameters"] == 336_064
    assert found["memory_bytes"]["kv_cache"] == kv_bytes(vlm, 104 + 5)


def test_spread_is_median_and_range():
    assert spread([3., 1., 9.]) == Spread(3., 1., 9.) and str(spread([.1234, .1, 2])) == "0.123 (0.1–2)"


def test_ratios_are_the_papers():
    "Drive-KD (arXiv 2601.21288): InternVL3-78B over the 1B student."
    found = ratios(row(peak=171.6e9, tokens=4.0, first=16.46), row(peak=4.1e9, tokens=45.7, first=.45))
    assert found == {"memory": pytest.approx(41.9, abs=.05), "time per token": pytest.approx(11.4, abs=.05), "first token": pytest.approx(36.6, abs=.05)}


def test_the_table_compares_with_the_chosen_row():
    rows = [row("x/small", 1e9, 20., .5), row("large", 4e9, 10., 2.)]
    first, second = (as_text(rows, base).splitlines() for base in (None, "large"))
    assert first[1].endswith("small") and first[-1].split()[-3:] == ["4.00", "2.00", "4.00"]
    assert second[1].endswith("large") and second[-2].split()[-3:] == ["0.25", "0.50", "0.25"]
    assert "batch 1, 6 pictures of 1600 × 900, 128 text tokens, 64 new ones; 2 warm-up, then median (range) of 5" in first[0] and "threads: 1" in first[0]
    assert len({len(line) for line in first[3:]}) == 1


def test_ranges_that_overlap_are_said_below_the_table():
    wide = row("wide", 1e9, 20., .5) | {"tokens_per_s": Spread(20., 9., 30.), "first_token_s": Spread(.5, .4, 1.1)}
    far = row("far", 1e9, 20., .5) | {"first_token_s": Spread(.5, .4, .9)}
    lines = as_text([row("base"), wide, far]).splitlines()
    assert lines[-2].split()[0] == "far" and lines[-1] == "wide: its range overlaps with base's in tokens/s and first token, so that ratio may be chance"


def measured_apart(source, conditions):
    if source == "broken": raise RuntimeError("broken could not be measured, its process ended with: OSError: no")
    return row(source) | {"conditions": vars(conditions)}


def test_the_command_prints_a_table_or_json_and_says_what_failed(monkeypatch, capsys):
    monkeypatch.setattr(deployment, "measure_apart", measured_apart)
    command = ["bench", "deploy", "small", "large", "--picture-size", "320x180", "--new-tokens", "8", "--dtype", "bfloat16"]
    assert main([*command, "--base", "large"]) == 0
    out = capsys.readouterr()
    assert "bfloat16 on CPU" in out.out and "320 × 180" in out.out and "2 of 2: large" in out.err
    assert main(["bench", "deploy", "broken", *command[2:], "--json"]) == 1
    out = capsys.readouterr()
    found = json.loads(out.out)["rows"]
    assert json.loads(out.out)["base"] == "small" and found[1]["ratios"] == {"memory": 1., "time per token": 1., "first token": 1.}
    assert [r["model"] for r in found] == ["small", "large"] and found[0]["first_token_s"] == {"median": 1., "low": 1., "high": 1.} and "OSError: no" in out.err
    assert main(["bench", "deploy", "broken"]) == 1 and not capsys.readouterr().out


@pytest.mark.parametrize("wrong,said", [(["a", "--base", "b"], "--base must be one of the models, found b"), (["a", "--picture-size", "8"], "a size is written WIDTHxHEIGHT"),
                                        (["a", "--repeats", "0"], "`repeats` must be at least 1"), ([], "usage: drivekd bench deploy MODEL"),
                                        (["a", "--device", "cuda"], "where PyTorch sees a GPU, found none; give --device cpu"), (["a", "--device", "gpu"], "--device is 'cpu' or 'cuda', found 'gpu'")])
def test_wrong_arguments_are_refused_before_anything_is_loaded(wrong, said, capsys, monkeypatch):
    monkeypatch.setattr(deployment, "deploy", lambda *a: pytest.fail("measured"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit): main(["bench", "deploy", *wrong])
    assert said in capsys.readouterr().err


def test_both_benches_are_found_and_others_are_not(capsys):
    for bench in ("step", "deploy"):
        with pytest.raises(SystemExit) as done: main(["bench", bench, "--help"])
        assert done.value.code == 0
    with pytest.raises(SystemExit): main(["bench", "lunch"])
    assert "invalid choice: 'lunch'" in capsys.readouterr().err


@pytest.mark.slow
def test_each_model_has_a_process_of_its_own(capsys):
    found = measure_apart(STUDENT, SMALL)
    assert found["model"] == STUDENT and found["memory_bytes"]["process"] > 50e6 and isinstance(found["first_token_s"], Spread)
    assert deploy(["no/such/folder"], SMALL) == [] and "There is no checkpoint at no/such/folder" in capsys.readouterr().err
