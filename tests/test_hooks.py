"Attention capture: equal to eager attention, invisible afterwards."
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from drivekd.distill.hooks import _CAPTURES, attention_modules, capture_attention, capture_hidden, head_mean_attention

LEFT = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
RIGHT = LEFT.flip(1)
TOKENS = torch.arange(12).view(2, 6)


def tiny(attn="sdpa", kv_heads=2, layers=3, seed=0):
    torch.manual_seed(seed)
    config = Qwen2Config(vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
                         num_attention_heads=4, num_key_value_heads=kv_heads, initializer_range=0.3)
    config._attn_implementation = attn
    return Qwen2ForCausalLM(config).eval()


def captured(model, mask=None, layers=(0, 1, 2), **kwargs):
    with capture_attention(model, layers, **kwargs) as maps:
        model(TOKENS, attention_mask=mask)
    return maps


def eager_maps(mask=None, **kwargs):
    model = tiny("eager", **kwargs)
    return model, [a.mean(1) for a in model(TOKENS, attention_mask=mask, output_attentions=True).attentions]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("mask", [None, LEFT, RIGHT, torch.ones_like(LEFT)], ids=["none", "left", "right", "full"])
def test_maps_equal_eager_attention_on_real_tokens(mask, kv_heads):
    maps, (_, expected) = captured(tiny(kv_heads=kv_heads), mask), eager_maps(mask, kv_heads=kv_heads)
    real = (torch.ones_like(TOKENS) if mask is None else mask).bool()
    for layer, wanted in enumerate(expected):
        torch.testing.assert_close(maps[layer][real], wanted[real], atol=1e-6, rtol=0)
        assert (maps[layer].sum(-1)[real] - 1).abs().max() < 1e-6


def test_rows_of_padding_are_zero_and_nobody_looks_at_padding():
    for mask in (LEFT, RIGHT):
        found = captured(tiny(), mask)[1]
        assert not found.transpose(1, 2)[~mask.bool()][:, 2:4].any()  # columns
    assert not captured(tiny(), LEFT)[1][~LEFT.bool()].any()  # left padding can look nowhere


def test_gradients_equal_eager_gradients():
    weight = torch.rand(2, 6, 6)
    model, (eager, expected) = tiny(), eager_maps()
    (captured(model)[1] * weight).sum().backward()
    (expected[1] * weight).sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), eager.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None: torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5)


def test_logits_are_those_of_sdpa():
    model = tiny()
    plain = model(TOKENS, attention_mask=LEFT).logits
    with capture_attention(model, [1]): listened = model(TOKENS, attention_mask=LEFT).logits
    torch.testing.assert_close(plain, listened, atol=0, rtol=0)


def test_rows_and_columns_are_a_cut_of_the_whole_map():
    rows, columns = torch.tensor([5, 2]), torch.tensor([1, 0, 3])
    for mask in (None, LEFT):
        cut, whole = captured(tiny(), mask, rows=rows, columns=columns)[2], captured(tiny(), mask)[2]
        torch.testing.assert_close(cut, whole[:, rows][:, :, columns], atol=1e-7, rtol=0)


def test_only_layers_asked_for_are_kept():
    assert captured(tiny(), layers=[2]).keys() == {2}


def test_half_precision_inputs_give_float32_maps():
    q, k = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8)
    exact = head_mean_attention(q, k)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = head_mean_attention(q, k)
    torch.testing.assert_close(under_autocast, exact, atol=0, rtol=0)
    rough = head_mean_attention(q.bfloat16(), k.bfloat16())
    assert rough.dtype == torch.float32 and (rough - exact).abs().max() < 0.02


def test_additive_masks_of_cross_attention_are_added():
    q, k = torch.randn(1, 4, 3, 8), torch.randn(1, 4, 5, 8)
    allowed = torch.tensor([1, 1, 0, 1, 0]).bool().expand(1, 1, 3, 5)
    additive = torch.zeros(1, 1, 3, 5).masked_fill(~allowed, torch.finfo(torch.float32).min)
    torch.testing.assert_close(head_mean_attention(q, k, additive), head_mean_attention(q, k, allowed))
    rows = torch.tensor([1])
    torch.testing.assert_close(head_mean_attention(q, k, additive, rows=rows), head_mean_attention(q, k, allowed)[:, 1:2])


def checkpointed(reentrant):
    model = tiny().train()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    return model


def test_gradient_checkpointing_changes_neither_maps_nor_gradients():
    plain, checked = tiny().train(), checkpointed(False)
    for model in (plain, checked):
        with capture_attention(model, [0, 1]) as maps:
            loss = model(TOKENS, attention_mask=LEFT, use_cache=False).logits.square().mean() + maps[1].square().sum()
            loss.backward(retain_graph=True)
            maps[0].square().sum().backward()  # a second backward recomputes again
    for (name, a), b in zip(plain.named_parameters(), checked.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize("source", [lambda m: m, attention_modules], ids=["model", "modules"])
def test_reentrant_checkpointing_is_refused(source):
    model = checkpointed(True)
    model.model.embed_tokens.register_forward_hook(lambda m, a, out: out.requires_grad_(True))
    with pytest.raises(ValueError, match="use_reentrant': False"):
        with capture_attention(source(model), [1]):
            model(TOKENS, use_cache=False).logits.sum().backward()


@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_everything_is_restored_after_an_exception(before):
    model = tiny(before)
    with pytest.raises(RuntimeError, match="mid-flight"):
        with capture_attention(model, [0]):
            assert model.config._attn_implementation == "drivekd"
            raise RuntimeError("mid-flight")
    assert model.config._attn_implementation == before and len(_CAPTURES) == 0


def test_two_models_at_once_keep_their_own_maps():
    one, two = tiny(seed=1), tiny(seed=2)
    with capture_attention(one, [0]) as a, capture_attention(two, [0, 2]) as b:
        two(TOKENS); one(TOKENS)
    torch.testing.assert_close(a[0], captured(one)[0])
    torch.testing.assert_close(b[2], captured(two)[2])
    assert a.keys() == {0} and not torch.allclose(a[0], b[0])


def test_a_model_is_captured_once_at_a_time():
    model = tiny()
    with capture_attention(model, [0]):
        with pytest.raises(ValueError, match="already being captured"):
            with capture_attention(model, [0, 1]): pass
    assert captured(model).keys() == {0, 1, 2}


def test_layers_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match=r"layers \[3\] were asked for"):
        with capture_attention(tiny(), [0, 3]): pass


def test_stop_ends_the_pass_in_the_last_layer_needed():
    model, ran = tiny(), []
    for i, layer in enumerate(model.model.layers): layer.mlp.register_forward_hook(lambda *a, i=i: ran.append(i))
    with torch.no_grad(), capture_attention(model, [0, 1], stop=True) as maps:
        model(TOKENS)
        pytest.fail("the pass was not stopped")
    assert ran == [0] and maps.keys() == {0, 1}
    assert model.config._attn_implementation == "sdpa"


def test_hidden_states_are_layer_outputs_and_hooks_go_away():
    model = tiny()
    expected = model(TOKENS, output_hidden_states=True).hidden_states  # (hooks of transformers' own stay afterwards)
    before = [len(layer._forward_hooks) for layer in model.model.layers]
    with capture_hidden(model.model.layers, [0, 1]) as states: model(TOKENS)
    torch.testing.assert_close(states[1], expected[2])
    assert [len(layer._forward_hooks) for layer in model.model.layers] == before


@pytest.fixture(scope="module")
def internvl():
    "A real InternVL of a few thousand parameters, and a padded batch for it."
    from drivekd.models.families import InternVL
    from drivekd.models.miniature import build_miniature, build_processor, train_tokenizer
    model = build_miniature(build_processor(train_tokenizer(["What is the car doing?"] * 3, vocab_size=300)), "student").eval()
    model.set_attn_implementation("eager")
    torch.manual_seed(0)
    image = [model.config.image_token_id] * 64
    ids = torch.tensor([[0] * 6 + image + [70, 71, 72, 73], [74, 75, *image, *range(80, 88)]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": torch.randn(2, 3, 112, 112)}
    return model, InternVL().attention_modules(model), inputs


def test_internvl_maps_equal_eager_and_its_vision_tower_is_left_alone(internvl):
    model, modules, inputs = internvl
    wanted = model(**inputs, output_attentions=True).attentions
    with capture_attention(modules, [0, 2]) as maps:
        assert model.model.vision_tower.config._attn_implementation == "eager"
        logits = model(**inputs).logits
    real = inputs["attention_mask"].bool()
    for layer in (0, 2):
        torch.testing.assert_close(maps[layer][real], wanted[layer].mean(1)[real], atol=1e-6, rtol=0)
    torch.testing.assert_close(logits[real], model(**inputs).logits[real], atol=1e-5, rtol=1e-4)
    assert modules[0].config._attn_implementation == "eager"


def test_internvl_teacher_stops_early(internvl):
    model, modules, inputs = internvl
    ran = []
    handles = [layer.register_forward_pre_hook(lambda *a, i=i: ran.append(i)) for i, layer in enumerate(model.model.language_model.layers)]
    with torch.no_grad(), capture_attention(modules, [1], stop=True) as maps: model(**inputs, use_cache=False)
    for handle in handles: handle.remove()
    assert ran == [0, 1] and maps.keys() == {1}
