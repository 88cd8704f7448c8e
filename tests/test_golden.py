"""Replays recorded steps of the published trainer through the library's own code.

Every NAME.json (with its NAME.safetensors) in the folder named by DRIVEKD_GOLDEN_DIR, by default tests/golden.

The recordings were made with eager attention in float32. Their random students attend so sharply that rounding shows: in
float32 one processor repeats them within 6e-6, another only within 3e-5. In float64 processors agree: there the first step of
each case, whose weights are recorded, must be the recorded one within 1e-5 (losses 1e-6). Later steps begin with weights that
float32 has moved, so they are replayed in float32, within what rounding explains: float64 is as far from them (3e-5).
The kernel beneath the library's capture is replaced by transformers' eager one; test_hooks shows that the two agree.
"""
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import eager_attention_forward

from drivekd.distill.capabilities import DRIVING, Recipe, with_options
from drivekd.distill.lesson import Lesson
from drivekd.distill.objective import shares, static_weights
from drivekd.distill.reweighting import make_reweighting
from drivekd.distill.step import Window, is_due
from drivekd.distill.teachers import Teachers

FOLDER = Path(os.environ.get("DRIVEKD_GOLDEN_DIR", Path(__file__).parent / "golden"))
CASES = sorted(path.stem for path in FOLDER.glob("*.json"))
EXACT, ROUNDED = (1e-5, 1e-6), (5e-5, 5e-6)  # relative error of a vector or Gram matrix, of a loss
KEYS = {"ce": "ce", "p:first_att_Atv": "perception", "r:intermediate": "reasoning", "d:penult_att_Atv": "planning"}


@pytest.fixture(autouse=True)
def eager_kernel(monkeypatch):
    "Compute attention with the arithmetic of the recording."
    def kernel(module, query, key, value, mask, is_causal=None, **kwargs):
        ahead = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).triu(1)
        mask = torch.zeros(ahead.shape, dtype=query.dtype).masked_fill(ahead, torch.finfo(query.dtype).min)[None, None]
        return eager_attention_forward(module, query, key, value, mask, **kwargs)
    monkeypatch.setattr("transformers.integrations.sdpa_attention.sdpa_attention_forward", kernel)


@pytest.fixture
def float64():
    "Arithmetic in which processors agree."
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class GoldenModel(nn.Module):
    "A language model that puts recorded vision features where token ids are negative (-1-i: next row of image i)."
    def __init__(self, shape: dict, vocab: int, weights: dict, images: dict):
        super().__init__()
        self.lm = Qwen2ForCausalLM(Qwen2Config(
            vocab_size=vocab, hidden_size=shape["hidden"], intermediate_size=2 * shape["hidden"],
            num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"],
            max_position_embeddings=512, tie_word_embeddings=False))
        self.lm.load_state_dict(weights)
        self.config = self.lm.config
        for i, features in images.items(): self.register_buffer(f"image_{i}", features)

    def forward(self, input_ids, attention_mask, **kwargs):
        embeds = self.lm.get_input_embeddings()(input_ids.clamp(min=0))
        for i in sorted({-1 - x for x in input_ids.flatten().tolist() if x < 0}):
            rows = input_ids == -1 - i
            embeds = embeds.masked_scatter(rows[..., None], getattr(self, f"image_{i}")[:rows.sum()])
        return self.lm(inputs_embeds=embeds, attention_mask=attention_mask, **kwargs)


class GoldenBatch(SimpleNamespace):
    "One recorded sample."
    def to(self, device): return self
    def model_inputs(self): return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}


def part(tensors: dict, prefix: str) -> dict:
    "Tensors whose name starts with `prefix`, without it."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def recorded_tensors(name: str) -> dict:
    "Tensors of a case, its numbers in the default dtype."
    tensors = load_file(FOLDER / f"{name}.safetensors")
    return {k: t.to(torch.get_default_dtype()) if t.is_floating_point() else t for k, t in tensors.items()}


def golden_vlm(shape: dict, vocab: int, tensors: dict, who: str) -> SimpleNamespace:
    "A recorded model in the form the library expects."
    model = GoldenModel(shape, vocab, part(tensors, f"{who}."), part(tensors, f"{who}_vision."))
    layers = model.lm.model.layers
    return SimpleNamespace(model=model, llm_layers=layers, attention_modules=[layer.self_attn for layer in layers])


def golden_recipe(case: dict) -> Recipe:
    "What the published trainer did, in our words."
    weights = {c.name: float(case["static_weights"][c.name]) for c in DRIVING}
    recipe = Recipe("golden", DRIVING, ce_weight=float(case["static_weights"]["ce"]), freeze="none", scope="micro_batch",
                    mixing=tuple(map(tuple, case["mix_rows"])), conflict="agp" if case["agp"] else "sum",
                    support="published", ce_count="per_capability",
                    reweight="published" if case["dynamic_weights"] else "off")
    return with_options(recipe, denominator="published", weights=weights)


def golden_batch(step: dict) -> GoldenBatch:
    "The recorded sample of a step."
    ids = torch.tensor([step["input_ids"]])
    return GoldenBatch(input_ids=ids, attention_mask=torch.ones_like(ids), vision_mask=torch.tensor([step["is_image"]]),
                       labels=torch.tensor([step["labels"]]), capabilities=[step["capability"]], ids=["golden"])


class Replay:
    "The published training loop, made of the library's parts."
    def __init__(self, name: str):
        self.case, self.tensors = json.loads((FOLDER / f"{name}.json").read_text()), recorded_tensors(name)
        self.student = golden_vlm(self.case["student"], self.case["vocab"], self.tensors, "student")
        self.recipe = golden_recipe(self.case)
        teachers = {c.name: golden_vlm(shape, self.case["vocab"], self.tensors, f"teacher{j}")
                    for j, (c, shape) in enumerate(zip(DRIVING, self.case["teachers"], strict=True))}
        self.lesson = Lesson(self.student, Teachers(teachers, self.recipe, self.case["student"]["layers"]), self.recipe)
        named = dict(self.student.model.lm.named_parameters())
        self.parameters = [named[n] for n in self.case["parameter_order"]]
        self.window = Window(self.parameters, self.recipe)
        self.recipe_weights = static_weights(self.recipe)
        self.reweighting = make_reweighting(self.recipe.reweight, self.recipe_weights)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.case["lr"], weight_decay=0.0)

    def flat(self, grads) -> torch.Tensor:
        "Gradients as one vector; a missing one is zeros."
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(self.parameters, grads, strict=True)])

    def micro_batch(self, step: dict):
        "Losses, gradients, projections of one recorded sample."
        batch = golden_batch(step)
        losses = self.lesson.study(batch, self.window, self.reweighting.weights, step["loss_scale"])
        assert is_due(self.recipe, last=step["optimizer_step_taken"])
        merged = [n for n in shares(self.recipe, batch.capabilities) if n != "ce"]
        order = [merged.index(n) for n in step["stage2_permutation"] if n in merged] if self.recipe.conflict == "agp" and merged else None
        outcome = self.window.combine(key=(0,), permutation=order)
        self.reweighting.observe(outcome.losses, outcome.norms)
        return losses, outcome

    def update(self, recorded: torch.Tensor | None = None):
        "The optimizer's step, with our gradient or the recorded one."
        self.window.finish()
        if recorded is not None:
            parts = recorded.split([p.numel() for p in self.parameters])
            for p, part in zip(self.parameters, parts, strict=True): p.grad = part.view_as(p).clone()
        self.optimizer.step(); self.optimizer.zero_grad(); self.reweighting.step()


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float, what: str):
    "Relative L2 distance."
    error = ((found.double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-30)).item()
    assert error <= tolerance, f"{what}: relative error {error:.2e} > {tolerance:.0e}"


def check_step(replay: Replay, i: int, step: dict, losses: dict, outcome, bar: float, loss_bar: float):
    "Terms, losses and Gram matrix of one recorded step; what has no weight takes no part."
    share = {t: s[0] for t, s in shares(replay.recipe, [step["capability"]]).items()}
    terms = [t for t in step["task_order"] if t in share]
    assert list(outcome.telemetry.terms) == terms == list(share), f"step {i}: terms"
    for term in terms:
        assert losses[term].item() == pytest.approx(step["loss"][term], rel=loss_bar), f"step {i}: loss {term}"
    weights = torch.tensor([outcome.weights[t] * share[t] for t in terms], dtype=torch.float64)
    found = torch.tensor(outcome.telemetry.gram, dtype=torch.float64) / weights.outer(weights)
    rows = [step["task_order"].index(t) for t in terms]
    wanted = torch.tensor(step["gram_unweighted"], dtype=torch.float64)[rows][:, rows]
    norms = wanted.diagonal().sqrt()
    error = ((found - wanted) / norms.outer(norms).clamp_min(1e-30)).abs().max().item()
    assert error <= bar, f"step {i}: Gram off by {error:.1e} of the norms"
    total = sum(replay.recipe_weights[t] * share[t] * losses[t].item() for t in terms)
    assert total == pytest.approx(step["total_loss_static"], rel=loss_bar), f"step {i}: total"


def check_weights(replay: Replay, recorded: dict, when: str):
    "Loss weights as recorded."
    wanted = {KEYS[k]: v for k, v in recorded.items() if v > 0}
    assert replay.reweighting.weights == {t: pytest.approx(w, rel=1e-6) for t, w in wanted.items()}, when


def replay_step(replay: Replay, i: int, step: dict, bars: tuple[float, float]) -> torch.Tensor:
    "Compare losses, Gram matrix, combined gradient and loss weights of a step; the recorded gradient."
    check_weights(replay, step["weights_used"], f"step {i}: weights used")
    losses, outcome = replay.micro_batch(step)
    check_step(replay, i, step, losses, outcome, *bars)
    kind = "combined_grad" if step["optimizer_step_taken"] else "accumulated_grad"
    recorded = replay.tensors[f"{kind}.{i}"]
    close(replay.flat(replay.window.total), recorded, bars[0], f"step {i}: {kind}")
    return recorded


@pytest.mark.parametrize("name", CASES)
def test_the_first_recorded_step_of_the_published_trainer_is_reproduced_in_float64(name, float64):
    replay = Replay(name)
    replay_step(replay, 0, replay.case["steps"][0], EXACT)


@pytest.mark.parametrize("name", CASES)
def test_every_recorded_step_of_the_published_trainer_is_reproduced(name):
    """Losses, Gram, combined gradient, loss weights. Each optimizer step is taken with the recorded gradient (just compared
    to ours): Adam divides by tiny second moments, so that a rounding error of 1e-7 would be 1e-5 a step later."""
    replay = Replay(name)
    for i, step in enumerate(replay.case["steps"]):
        recorded = replay_step(replay, i, step, ROUNDED)
        if step["optimizer_step_taken"]: replay.update(recorded)
        check_weights(replay, step["weights_after"], f"step {i}: weights after")


@pytest.mark.parametrize("name", CASES)
def test_the_student_ends_where_the_published_trainer_left_it(name):
    "The same steps on our own gradients throughout."
    replay = Replay(name)
    for step in replay.case["steps"]:
        replay.micro_batch(step)
        if step["optimizer_step_taken"]: replay.update()
    named = replay.student.model.lm.state_dict()
    before, after, found = (torch.cat([source[p + n].flatten() for n in replay.case["parameter_order"]])
                            for source, p in ((replay.tensors, "student."), (replay.tensors, "student_after."), (named, "")))
    close(found - before, after - before, 1e-3, "update of the student")


def test_there_are_cases_to_replay():
    assert CASES, f"No *.json found in {FOLDER}; set DRIVEKD_GOLDEN_DIR to a folder with recorded cases."
