"The fused map loss is the plain one: same number, same gradient, nothing large kept."
import pytest
import torch
from toys import collate, samples, tiny

from drivekd.distill.capabilities import PRESETS, Signal, with_options
from drivekd.distill.fused import _ENTRIES, fused_map_loss, mean_maps, row_blocks, token_region
from drivekd.distill.hooks import QueryKey, capture_query_key, looks_ahead
from drivekd.distill.losses import full_pairs, map_loss, text_to_vision_pairs
from drivekd.distill.objective import Needs, listen, signal_loss, student_needs, target

T = 40


def layer(b=3, heads=4, groups=2, t=T, dim=8, dtype=torch.float32, mask=None, causal=True, scaling=None):
    "A layer with gradients; three samples, the last of them without a picture."
    query, key = (2 * torch.randn(b, n, t, dim, dtype=dtype).requires_grad_() for n in (heads, groups))
    return QueryKey(query, key, mask, scaling, causal, lower=not looks_ahead(mask, causal))


def tokens(b=3, padding="none", t=T):
    "Vision and attention masks [b t]; pictures at different places, sample 2 has none."
    vision, attention = torch.zeros(b, t).bool(), torch.ones(b, t, dtype=torch.long)
    vision[0, 5:20] = True
    if b > 1: vision[1, 2:9] = True; vision[1, 14:20] = True
    if padding == "right": attention[0, 31:] = 0
    if padding == "left": attention[0, :4] = 0
    return vision & attention.bool(), attention


def pad_mask(attention):
    "What transformers hands to an attention function for padded batches: bool [b 1 t t]."
    t = attention.shape[1]
    return (torch.ones(t, t).bool().tril() & attention.bool()[:, None, :])[:, None]


def both(layer, target, region, vision, attention, distance, denominator):
    "Plain and fused loss with gradients for an uneven weighting of the samples."
    causal = denominator == "causal"
    pairs = full_pairs(attention, causal) if region == "full" else text_to_vision_pairs(vision, attention, causal)
    losses = (map_loss(layer.map(), target, pairs, distance),
              fused_map_loss(layer, target, token_region(region, vision, attention, causal), distance))
    weights = torch.arange(1., 1 + len(target))
    return [(loss, *torch.autograd.grad((loss * weights).sum(), (layer.query, layer.key))) for loss in losses]


def assert_equal(plain, fused, tolerance=1e-6):
    "Relative to the largest entry."
    for a, b in zip(plain, fused, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert (a - b).abs().max() <= tolerance * a.abs().max().clamp_min(1e-30)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("region", ["full", "text_to_vision"])
@pytest.mark.parametrize("denominator", ["causal", "published"])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_number_and_gradient_are_those_of_the_plain_loss(distance, region, denominator, padding):
    vision, attention = tokens(padding=padding)
    mask = None if padding == "none" else pad_mask(attention)
    student, aim = layer(mask=mask), layer(heads=6, groups=3, mask=mask).map().detach()
    assert student.lower
    assert_equal(*both(student, aim, region, vision, attention, distance, denominator), tolerance=2e-6)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("entries", [1, 37, 400])
def test_the_size_of_a_block_changes_nothing(monkeypatch, distance, entries):
    import drivekd.distill.fused as fused
    monkeypatch.setattr(fused.row_blocks, "__defaults__", (None, entries))
    vision, attention = tokens()
    student = layer(dtype=torch.float64)
    aim = layer(dtype=torch.float64).map().detach().double()
    found = fused_map_loss(student, aim, token_region("full", vision, attention), distance)
    monkeypatch.setattr(fused.row_blocks, "__defaults__", (None, _ENTRIES))
    torch.testing.assert_close(found, fused_map_loss(student, aim, token_region("full", vision, attention), distance), rtol=1e-12, atol=0)


def test_blocks_cover_every_row_once_and_keep_their_size():
    for heads, entries in ((1, 100), (8, 3000), (14, 50)):
        rows = torch.arange(3, 200)
        blocks = list(row_blocks(rows, heads, entries=entries))
        assert torch.equal(torch.cat(blocks), rows)
        assert all(len(b) == 1 or heads * len(b) * (b[-1] + 1) <= entries for b in blocks)
        assert all(len(b) == 1 or heads * len(b) * 300 <= entries for b in row_blocks(rows, heads, 300, entries))
    assert list(row_blocks(torch.arange(0), 8)) == []


@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("region", ["full", "text_to_vision"])
def test_gradients_pass_the_numerical_check_in_float64(distance, region):
    vision, attention = tokens(b=2, t=24)
    aim = layer(2, t=24, dtype=torch.float64).map().detach().double()
    where = token_region(region, vision, attention)
    start = layer(2, t=24, dim=3, dtype=torch.float64)

    def loss(query, key): return fused_map_loss(QueryKey(query, key), aim, where, distance)
    assert torch.autograd.gradcheck(loss, (start.query, start.key), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("kind", ["bidirectional", "additive", "window", "no diagonal"])
def test_other_masks_than_causal_ones(kind):
    vision, attention = tokens()
    below = torch.ones(T, T).bool().tril()
    mask, causal = {"bidirectional": (None, False), "additive": (torch.randn(3, 1, T, T), True),
                    "window": ((below & ~below.tril(-9))[None, None].expand(3, -1, -1, -1), True),
                    "no diagonal": ((below | torch.eye(T).bool().roll(1, 1))[None, None], True)}[kind]
    student = layer(mask=mask, causal=causal)
    assert student.lower == (kind == "window")
    for region in ("full", "text_to_vision"):
        aim = layer(mask=mask, causal=causal).map().detach()
        assert_equal(*both(student, aim, region, vision, attention, "mse", "causal"), tolerance=2e-6)


def test_a_batch_is_its_samples():
    vision, attention = tokens()
    student, aim = layer(), layer().map().detach()
    whole = fused_map_loss(student, aim, token_region("full", vision, attention))
    for i in range(3):
        one = QueryKey(student.query[i:i + 1], student.key[i:i + 1])
        torch.testing.assert_close(whole[i:i + 1], fused_map_loss(one, aim[i:i + 1], token_region("full", vision[i:i + 1], attention[i:i + 1])), rtol=0, atol=0)


def test_a_sample_without_a_picture_costs_nothing_and_pulls_nowhere():
    vision, attention = tokens()
    student, aim = layer(), layer().map().detach()
    for distance in ("mse", "cosine"):
        loss = fused_map_loss(student, aim, token_region("text_to_vision", vision, attention), distance)
        query, key = torch.autograd.grad(loss.sum(), (student.query, student.key))
        assert loss[2] == 0 and query[2].abs().max() == 0 and key[2].abs().max() == 0
        assert loss[:2].min() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_within_one_percent_and_its_gradients_keep_their_type(dtype):
    vision, attention = tokens()
    exact, aim = layer(), layer().map().detach()
    rough = QueryKey(*(x.detach().to(dtype).requires_grad_() for x in (exact.query, exact.key)))
    where = token_region("full", vision, attention)
    losses = [fused_map_loss(l, aim, where) for l in (exact, rough)]
    torch.testing.assert_close(*losses, rtol=0.01, atol=0)
    assert losses[1].dtype == torch.float32
    assert torch.autograd.grad(losses[1].sum(), rough.query)[0].dtype == dtype


def test_nothing_that_grows_with_the_square_of_the_tokens_is_kept():
    def largest_kept(t):
        seen = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: seen.append(x.numel()) or x, lambda x: x):
            fused_map_loss(layer(1, t=t), torch.zeros(1, t, t), token_region("full", torch.zeros(1, t).bool(), torch.ones(1, t)))
        return max(seen)
    assert largest_kept(80) == 2 * largest_kept(40) == 4 * 80 * 8


def test_without_gradients_the_number_is_the_same():
    vision, attention = tokens()
    student, aim, where = layer(), layer().map().detach(), token_region("full", *tokens())
    for distance in ("mse", "cosine"):
        with torch.no_grad(): quiet = fused_map_loss(student, aim, where, distance)
        assert torch.equal(quiet, fused_map_loss(student, aim, where, distance).detach())


def test_entries_of_the_target_outside_the_region_are_never_read():
    vision, attention = tokens(padding="right")
    student, aim = layer(mask=pad_mask(attention)), layer().map().detach()
    where = token_region("text_to_vision", vision, attention)
    wild = aim.masked_fill(~text_to_vision_pairs(vision, attention), 1e6)
    assert torch.equal(fused_map_loss(student, aim, where), fused_map_loss(student, wild, where))


@pytest.mark.parametrize("region", ["full", "text_to_vision"])
@pytest.mark.parametrize("padding", ["none", "left"])
def test_targets_are_group_means_of_whole_maps_at_the_rows_that_count(region, padding):
    vision, attention = tokens(padding=padding)
    mask = None if padding == "none" else pad_mask(attention)
    layers = {l: layer(mask=mask) for l in (1, 2, 5)}
    where = token_region(region, vision, attention)
    with torch.no_grad(): found = mean_maps(layers, [(1, 2), (2,), (1, 2, 5)], where)
    for maps, group in zip(found, [(1, 2), (2,), (1, 2, 5)], strict=True):
        wanted = torch.stack([layers[l].map() for l in group]).mean(0)
        for i, rows in enumerate(where.rows):
            torch.testing.assert_close(maps[i, rows], wanted[i, rows].detach(), rtol=1e-5, atol=1e-7)
            assert not maps[i].index_fill(0, rows, 0).any()


@pytest.mark.parametrize("preset", ["agp", "tv_mid", "cosine_reasoning", "full_first"])
def test_a_student_gets_the_same_gradient_from_queries_and_keys_as_from_maps(preset):
    recipe = with_options(preset, denominator="published") if preset == "agp" else PRESETS[preset]
    student, batch = tiny(4, 2, seed=3), collate(samples(2))
    needed = student_needs(recipe, 4)
    plan = [(l, (l,)) for l in needed.attention]
    teacher = tiny(4, 4, seed=4)
    with torch.no_grad(), listen(teacher, Needs(attention=needed.attention), maps=False) as listened: teacher.model(**batch.model_inputs())
    for capability in recipe.capabilities:
        wanted = target(capability.signal, plan, listened, batch)
        results = []
        for maps in (True, False):
            student.model.zero_grad()
            with listen(student, needed, maps=maps) as shown: student.model(**batch.model_inputs())
            loss = signal_loss(capability.signal, shown, wanted, batch)
            loss.sum().backward()
            results.append((loss.detach(), *(p.grad.clone() for p in student.model.parameters() if p.grad is not None)))
        assert_equal(*results, tolerance=5e-6)


def test_each_term_reaches_only_the_layers_below_its_map():
    student, batch = tiny(4, 2), collate(samples(2))
    with listen(student, Needs(attention=(1,)), maps=False) as shown: student.model(**batch.model_inputs())
    signal = Signal(layers=(1,), region="full")
    signal_loss(signal, shown, _zeros(batch), batch).sum().backward()
    reached = {n for n, p in student.model.named_parameters() if p.grad is not None}
    assert not {n for n in reached if ".layers.2." in n or ".layers.3." in n or "lm_head" in n}
    assert {n.split(".", 3)[-1] for n in reached if ".layers.1." in n} == {
        "input_layernorm.weight", *(f"self_attn.{p}_proj.{w}" for p in "qk" for w in ("weight", "bias"))}


def _zeros(batch):
    from drivekd.distill.objective import Signals
    b, t = batch.input_ids.shape
    return Signals({1: torch.zeros(b, t, t)})


def test_gradient_checkpointing_changes_nothing():
    batch, gradients = collate(samples(2)), []
    for checkpoint in (False, True):
        student = tiny(4, 2)
        student.model.train()
        if checkpoint: student.model.gradient_checkpointing_enable({"use_reentrant": False})
        with listen(student, Needs(attention=(1,)), maps=False) as shown:
            student.model(**batch.model_inputs())
            signal_loss(Signal(layers=(1,), region="full"), shown, _zeros(batch), batch).sum().backward()
        gradients.append([p.grad for p in student.model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None: torch.testing.assert_close(a, b)


def test_reentrant_checkpointing_is_refused_for_queries_and_keys_too():
    student = tiny(2)
    student.model.train(); student.model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant"):
        with capture_query_key(student, [0]): pass
