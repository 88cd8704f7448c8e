"The Triton kernels give PyTorch's map, loss and gradients: compiled where there is a GPU, else in Triton's interpreter."
import os

import pytest
import torch

if not torch.cuda.is_available(): os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
pytest.importorskip("triton", reason="the kernels need Triton, which is not installed: pip install triton")

from test_fused import assert_equal, pad_mask, tokens

from drivekd.distill.fused import fused_map_loss, token_region
from drivekd.distill.hooks import QueryKey, head_mean_attention, looks_ahead
from drivekd.distill.kernels import head_mean, score_gradients, serves

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
T = 40  # more than one block of float32


def layer(b=3, heads=4, groups=2, t=T, dim=8, dtype=torch.float32, mask=None, causal=True, scaling=None):
    query, key = ((2 * torch.randn(b, n, t, dim)).to(DEVICE, dtype).requires_grad_() for n in (heads, groups))
    mask = None if mask is None else mask.to(DEVICE)
    return QueryKey(query, key, mask, scaling, causal, lower=not looks_ahead(mask, causal))


def all_rows(b=3, t=T): return torch.arange(t, dtype=torch.int32, device=DEVICE).repeat(b, 1)


def two_ways(student, region, vision, attention, distance="mse", causal=True, aim=None):
    "Loss and gradients by PyTorch and by the kernels, samples weighted unevenly."
    aim = torch.rand(len(vision), T, T, device=DEVICE) / T if aim is None else aim
    where = token_region(region, vision.to(DEVICE), attention.to(DEVICE), causal)
    losses = [fused_map_loss(student, aim, where, distance, kernels) for kernels in (False, True)]
    weights = torch.arange(1., 1 + len(aim), device=DEVICE)
    return [(loss, *torch.autograd.grad((loss * weights).sum(), (student.query, student.key))) for loss in losses]


@pytest.mark.parametrize("options", [dict(), dict(causal=False), dict(heads=6, groups=6), dict(groups=1), dict(dim=24), dict(t=33), dict(scaling=0.3), dict(b=1, t=5)], ids=str)
def test_map_and_gradients_are_those_of_the_plain_map(options):
    student = layer(**options)
    b, _, t, _ = student.query.shape
    rows = all_rows(b, t)
    mean, norm = head_mean(student, rows)
    plain = head_mean_attention(student.query, student.key, scaling=student.scaling, causal=student.causal)
    gradient = torch.randn_like(plain)
    plain.backward(gradient)
    assert_equal([plain.detach(), student.query.grad, student.key.grad], [mean, *score_gradients(student, rows, norm, gradient)], 5e-6)


def test_chosen_rows_of_unequal_number():
    student = layer()
    rows = torch.full((3, 37), -1, dtype=torch.int32, device=DEVICE)
    for i, places in enumerate(([3, 39], range(2, 39), [])): rows[i, :len(places)] = torch.tensor(list(places), dtype=torch.int32)
    mean, norm = head_mean(student, rows)
    plain = head_mean_attention(student.query, student.key).detach()
    for i in range(3):
        there = rows[i] >= 0
        torch.testing.assert_close(mean[i, there], plain[i, rows[i, there].long()])
        assert not mean[i, ~there].any()
    of_query, of_key = score_gradients(student, rows, norm, torch.randn_like(mean))
    assert not of_query[0, :, :3].any() and of_query[0, :, 3].all() and not of_query[2].any() and not of_key[2].any()


@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("region", ["full", "text_to_vision"])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_loss_and_gradients_are_those_of_the_row_blocks(distance, region, padding):
    vision, attention = tokens(padding=padding)
    student = layer(mask=None if padding == "none" else pad_mask(attention))
    assert student.lower and serves(student)
    assert_equal(*two_ways(student, region, vision, attention, distance, causal=padding != "left"), tolerance=5e-6)


# Triton's interpreter multiplies the bit patterns of bfloat16 as integers, so that type is for a GPU
@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.cuda)])
def test_half_precision_gives_the_row_blocks_result_up_to_the_rounding_of_its_gradients(dtype):
    vision, attention = tokens()
    rows, kernels = two_ways(layer(dtype=dtype), "full", vision, attention)
    assert rows[1].dtype == kernels[1].dtype == dtype
    torch.testing.assert_close(rows[0], kernels[0], rtol=1e-5, atol=0)
    for a, b in zip(rows[1:], kernels[1:], strict=True): assert (a.float() - b.float()).abs().max() <= 0.01 * a.float().abs().max()


def test_samples_in_which_nothing_looks_at_a_picture_cost_nothing_and_teach_nothing():
    vision, attention = tokens()
    vision[:] = False
    for way in two_ways(layer(), "text_to_vision", vision, attention):
        for x in way: assert not x.any()


def test_a_mask_that_looks_ahead_is_obeyed():
    vision, attention = tokens()
    mask = torch.rand(3, 1, T, T) < 0.5
    mask |= torch.eye(T, dtype=torch.bool)
    student = layer(mask=mask)
    assert not student.lower
    assert_equal(*two_ways(student, "full", vision, attention, causal=False), tolerance=5e-6)


def test_what_the_kernels_do_not_serve_goes_to_pytorch():
    vision, attention = tokens()
    bias = torch.zeros(3, 1, T, T).masked_fill(~pad_mask(attention), torch.finfo(torch.float32).min)
    for student in (layer(mask=bias), layer(mask=pad_mask(attention).expand(3, 4, T, T)), layer(dtype=torch.float64)):
        assert not serves(student)
        assert_equal(*two_ways(student, "full", vision, attention), tolerance=0)


def test_queries_as_a_model_lays_them_out():
    "Heads side by side in memory, as a linear layer writes them."
    vision, attention = tokens()
    query, key = (torch.randn(3, T, n, 8, device=DEVICE, requires_grad=True).transpose(1, 2) for n in (4, 2))
    assert_equal(*two_ways(QueryKey(query, key), "full", vision, attention), tolerance=5e-6)


def test_the_same_twice_is_the_same_bit_for_bit():
    vision, attention = tokens()
    student, aim = layer(), torch.rand(3, T, T, device=DEVICE)
    first, second = (two_ways(student, "full", vision, attention, aim=aim)[1] for _ in range(2))
    for a, b in zip(first, second, strict=True): assert torch.equal(a, b)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype, dim", [(torch.bfloat16, 64), (torch.bfloat16, 128), (torch.float16, 64), (torch.float32, 64)])
@pytest.mark.parametrize("region", ["full", "text_to_vision"])
def test_real_shapes_on_a_gpu(dtype, dim, region):
    "Six cameras and 200 text tokens, 14 heads on 2 key heads."
    t = 1736
    query, key = (torch.randn(1, n, t, dim, device="cuda").to(dtype).requires_grad_() for n in (14, 2))
    vision, aim = torch.zeros(1, t, dtype=torch.bool, device="cuda"), torch.rand(1, t, t, device="cuda") / t
    vision[:, 20:1556] = True
    where = token_region(region, vision, torch.ones_like(vision).long())
    ways = []
    for kernels in (False, True):
        loss = fused_map_loss(QueryKey(query, key), aim, where, "mse", kernels)
        ways.append((loss, *torch.autograd.grad(loss.sum(), (query, key))))
    torch.testing.assert_close(ways[0][0], ways[1][0], rtol=1e-4, atol=0)
    for a, b in zip(ways[0][1:], ways[1][1:], strict=True): assert (a.float() - b.float()).abs().max() <= 0.01 * a.float().abs().max()
