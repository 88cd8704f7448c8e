"Losses: what is compared, what is divided by, and precision."
import pytest
import torch
import torch.nn.functional as F

from drivekd.distill.losses import answer_cross_entropy, full_pairs, group_mean, hidden_loss, kl_loss, map_loss, text_to_vision_pairs


def causal_maps(b=4, t=12, dtype=torch.float32):
    dead = ~torch.ones(t, t).bool().tril()
    return torch.randn(b, t, t).masked_fill(dead, -1e9).softmax(-1).to(dtype)


@pytest.fixture
def scene():
    torch.manual_seed(0)
    vision = torch.zeros(4, 12).bool(); vision[:, 2:6] = True
    attention = torch.ones(4, 12, dtype=torch.long); attention[0, :2] = 0; attention[1, 10:] = 0
    return causal_maps(), causal_maps(), vision, attention


def regions(vision, attention, causal):
    return {"tv": text_to_vision_pairs(vision, attention, causal), "full": full_pairs(attention, causal)}


@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("region", ["tv", "full"])
def test_zero_loss_for_identical_maps(scene, region, distance):
    student, _, vision, attention = scene
    loss = map_loss(student, student, regions(vision, attention, True)[region], distance)
    assert loss.shape == (4,) and loss.abs().max() < 1e-6


def test_pairs_counted_by_hand_with_padding_in_front_and_behind(scene):
    _, _, vision, attention = scene
    # sample 2: 2 text tokens before, 4 vision, 6 after; sample 0 loses the two in front, sample 1 two behind
    assert text_to_vision_pairs(vision, attention, causal=True).sum((1, 2)).tolist() == [24, 16, 24, 24]
    assert text_to_vision_pairs(vision, attention, causal=False).sum((1, 2)).tolist() == [24, 24, 32, 32]
    assert full_pairs(attention, causal=True).sum((1, 2)).tolist() == [55, 55, 78, 78]
    assert full_pairs(attention, causal=False).sum((1, 2)).tolist() == [100, 100, 144, 144]


@pytest.mark.parametrize("region", ["tv", "full"])
def test_published_denominator_counts_dead_pairs_and_nothing_else_differs(scene, region):
    student, teacher, vision, attention = scene
    live, every = (regions(vision, attention, causal)[region] for causal in (True, False))
    sums = [map_loss(student, teacher, pairs) * pairs.sum((1, 2)) for pairs in (live, every)]
    torch.testing.assert_close(sums[0], sums[1])


def test_padding_contents_do_not_matter(scene):
    student, teacher, vision, attention = scene
    pairs = full_pairs(attention)
    noisy = student.clone()
    noisy[0, :2] = 7; noisy[0, :, :2] = 7; noisy[1, 10:] = 7
    torch.testing.assert_close(map_loss(noisy, teacher, pairs), map_loss(student, teacher, pairs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_half_precision_is_within_one_percent(dtype, distance):
    torch.manual_seed(0)
    student, teacher = causal_maps(2, 64), causal_maps(2, 64)
    pairs = full_pairs(torch.ones(2, 64))
    exact, rough = (map_loss(student.to(d), teacher.to(d), pairs, distance) for d in (torch.float32, dtype))
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.01, atol=0)


def test_float16_does_not_overflow_on_a_six_camera_map():
    t = 800  # 640 000 pairs; float16 ends at 65 504
    student, teacher = torch.zeros(1, t, t, dtype=torch.float16), torch.full((1, t, t), 0.5, dtype=torch.float16)
    assert map_loss(student, teacher, full_pairs(torch.ones(1, t), causal=False)).item() == pytest.approx(0.25)


@pytest.mark.parametrize("region", ["tv", "full"])
def test_a_batch_is_its_samples(scene, region):
    student, teacher, vision, attention = scene
    pairs = regions(vision, attention, True)[region]
    whole = map_loss(student, teacher, pairs)
    singles = torch.cat([map_loss(student[i:i+1], teacher[i:i+1], pairs[i:i+1]) for i in range(4)])
    torch.testing.assert_close(whole, singles)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_a_sample_without_a_picture_teaches_nothing(scene, distance):
    student, teacher, vision, attention = scene
    vision[2] = False
    student.requires_grad_()
    loss = map_loss(student, teacher, text_to_vision_pairs(vision, attention), distance)
    loss.sum().backward()
    assert loss[2] == 0 and not student.grad[2].any() and student.grad.isfinite().all() and loss[3] > 0


def test_group_mean_is_the_mean_of_the_group():
    layers = {i: torch.full((1, 2, 2), float(i)) for i in range(5)}
    assert group_mean(layers, (1, 2, 4))[0, 0, 0].item() == pytest.approx(7 / 3)


def test_cross_entropy_equals_the_shifted_reference_on_each_sample():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 6, 9), torch.randint(0, 9, (3, 6))
    labels[0, :4] = -100; labels[1, 5:] = -100
    expected = [F.cross_entropy(logits[i, :-1], labels[i, 1:], ignore_index=-100) for i in range(3)]
    torch.testing.assert_close(answer_cross_entropy(logits, labels), torch.stack(expected))


def test_cross_entropy_of_bfloat16_logits_is_computed_in_float32():
    logits, labels = torch.randn(1, 5, 7).bfloat16(), torch.tensor([[1, 2, 3, 4, 5]])
    found = answer_cross_entropy(logits, labels)
    torch.testing.assert_close(found, answer_cross_entropy(logits.float(), labels), rtol=0, atol=0)


def test_kl_is_zero_for_equal_logits_positive_otherwise_and_blind_outside_answers():
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(2, 5, 7), torch.randn(2, 5, 7), torch.full((2, 5), -100)
    labels[:, 3:] = 1
    assert kl_loss(teacher, teacher, labels).abs().max() < 1e-6
    loss = kl_loss(student, teacher, labels, temperature=2.0)
    assert (loss > 0).all()
    changed = student.clone(); changed[:, :2] += 5; changed[:, 4] += 5  # positions that predict no answer token
    torch.testing.assert_close(kl_loss(changed, teacher, labels, temperature=2.0), loss)


def test_kl_equals_torch_distributions():
    student, teacher, labels = torch.randn(1, 3, 7), torch.randn(1, 3, 7), torch.tensor([[-100, 1, 1]])
    wanted = torch.distributions.kl_divergence(torch.distributions.Categorical(logits=teacher[0, :2] / 3),
                                               torch.distributions.Categorical(logits=student[0, :2] / 3)).mean() * 9
    torch.testing.assert_close(kl_loss(student, teacher, labels, temperature=3.0)[0], wanted)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_hidden_loss_ignores_padding(distance):
    student, teacher = torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    loss = hidden_loss(student, teacher, mask, distance)
    torch.testing.assert_close(loss[0], hidden_loss(student[:1, 1:], teacher[:1, 1:], mask[:1, 1:], distance)[0])
    assert hidden_loss(teacher, teacher, mask, distance).abs().max() < 1e-6
