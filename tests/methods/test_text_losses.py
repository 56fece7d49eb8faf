"""SigLIP and BLIP's contrast are their formulas, written out in float64, on one process and with queues."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from text_cases import batch_of, make_tiny_pair, text_config
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.methods import BLIPITC, CLIP, BLIPOptions, CLIPOptions, CoCa, CoCaOptions, Facts, SigLIP, SigLIPOptions
from fastclr.methods.coca import features_and_places, has_places
from fastclr.methods.encoders import build_encoder, feature_dim
from fastclr.methods.heads import build_head
from fastclr.methods.text import TextOptions

N, D, K = 12, 8, 36
FACTS = Facts(images=64, labelled=0, classes=0, world_size=1, batch_size=N)
TEXT_IDS = torch.tensor([5, 5, 7, 8, 9, -3, -3, 2**62, 2**62, 1, 2, 3])
IMAGE_IDS = torch.arange(N)
TAU = float(torch.tensor(0.07))
OTHERS = ~torch.eye(N, dtype=torch.bool)


def built(name: str, options: TextOptions) -> Any:
    torch.manual_seed(0)
    return make_tiny_pair(text_config(name, options=options), FACTS).double()


def rows(seed: int, count: int = N) -> Tensor:
    made = torch.randn(count, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.requires_grad_()


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1)


@pytest.mark.parametrize("mask", [True, False])
def test_siglip_is_its_formula_and_open_clips(mask: bool) -> None:
    method = built("siglip", SigLIPOptions(mask=mask, bias=-3.0))
    assert isinstance(method, SigLIP)
    z, t = rows(1), rows(2)
    batch = batch_of(N, torch.zeros(N, 16, dtype=torch.int64), TEXT_IDS, IMAGE_IDS)
    loss, _ = method.loss([z, t], batch, 0, 10)
    scale, bias = (x.detach().requires_grad_() for x in method.scale_and_bias())
    assert float(scale.detach()) == pytest.approx(10.0) and float(bias.detach()) == -3.0
    parameters: Any = [z, t, method.criterion.log_scale, method.criterion.bias]
    found = torch.autograd.grad(loss, parameters)
    s = unit(z) @ unit(t).T * scale + bias
    signs = 2 * torch.eye(N, dtype=torch.float64) - 1
    kept = ~((TEXT_IDS[:, None] == TEXT_IDS[None]) & OTHERS) if mask else torch.ones(N, N, dtype=torch.bool)
    exact = -(F.logsigmoid(signs * s) * kept).sum() / N
    assert float(loss.detach()) == pytest.approx(float(exact.detach()), rel=1e-9)
    expected = list(torch.autograd.grad(exact, [z, t, scale, bias]))
    expected[2] = expected[2] * scale  # of its logarithm
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-6, atol=1e-9)
    if not mask:
        theirs = pytest.importorskip("open_clip.loss").SigLipLoss()
        assert float(theirs(unit(z), unit(t), scale, bias).detach()) == pytest.approx(float(exact.detach()), rel=1e-6)


def test_the_scale_of_siglip_is_kept_and_logged() -> None:
    method = built("siglip", SigLIPOptions())
    with torch.no_grad():
        method.criterion.log_scale.fill_(9.0)
    method.after_step(0, 10)
    assert method.scalars() == {"temperature": pytest.approx(0.01), "bias": -10.0}
    method.take_scale(50.0, -4.0)
    assert method.scalars() == {"temperature": pytest.approx(0.02), "bias": pytest.approx(-4.0)}


def blip_formula(
    z: Tensor, t: Tensor, keys: tuple[Tensor, Tensor], queues: tuple[Tensor, Tensor], hard: Tensor, alpha: float
) -> tuple[Tensor, list[Tensor]]:
    """The loss, and the soft targets of both directions."""
    total, targets = torch.zeros((), dtype=torch.float64), []
    for own, teacher, other, queue in ((z, keys[0], keys[1], queues[1]), (t, keys[1], keys[0], queues[0])):
        columns = torch.cat([unit(other), unit(queue)]).detach()
        soft = (unit(teacher) @ columns.T / TAU).softmax(1)
        targets.append(alpha * soft.detach() + (1 - alpha) * hard)
        total = total - (targets[-1] * (unit(own) @ columns.T / TAU).log_softmax(1)).sum(1).mean() / 2
    return total, targets


@pytest.mark.parametrize("mask", [True, False])
def test_blip_is_its_formula_with_soft_targets_and_queues(mask: bool) -> None:
    method = built("blip-itc", BLIPOptions(queue=K, mask=mask, momentum=0.9))
    assert isinstance(method, BLIPITC)
    batch = batch_of(N, torch.zeros(N, 16, dtype=torch.int64), TEXT_IDS, IMAGE_IDS)
    seen: list[Tensor] = []
    tokens = torch.randint(3, 30, (N, 16))
    for step in range(5):
        z, t, image_keys, text_keys = (rows(10 * step + index) for index in range(4))
        queues = (method.image_ring.keys.clone(), method.text_ring.keys.clone())
        loss, _ = method.loss([z, t, image_keys.detach(), text_keys.detach()], batch, step, 20)
        known = torch.full((K,), -1)  # of the queue, as pushed before
        for index, ids in enumerate(seen):
            known[index * N % K : index * N % K + N] = ids
        same = TEXT_IDS[:, None] == torch.cat([TEXT_IDS, known])[None]
        hard = same.double() / same.sum(1, keepdim=True) if mask else torch.eye(N, N + K, dtype=torch.float64)
        alpha = 0.4 * min(1.0, step / 2)  # over a tenth of 20 steps
        exact, targets = blip_formula(z, t, (image_keys, text_keys), queues, hard, alpha)
        torch.testing.assert_close(torch.stack(targets).sum(2), torch.ones(2, N, dtype=torch.float64))
        assert float(loss.detach()) == pytest.approx(float(exact.detach()), rel=1e-6)
        for one, other in zip(torch.autograd.grad(loss, [z, t]), torch.autograd.grad(exact, [z, t]), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
        before = [p.clone() for p in method.image_twin.parameters()]
        followed = [*method.encoder.parameters(), *method.head.parameters()]
        with torch.no_grad():
            for parameter in method.encoder.parameters():
                parameter.add_(0.1)
        method.after_step(step, 20)
        for twin, was, parameter in zip(method.image_twin.parameters(), before, followed, strict=True):
            torch.testing.assert_close(twin, 0.9 * was + 0.1 * parameter)
        torch.testing.assert_close(
            method.text_ring.keys[step * N % K : step * N % K + N], unit(text_keys).detach(), rtol=1e-6, atol=1e-7
        )
        seen.append(TEXT_IDS)
    assert not torch.equal(method.text_twin(tokens), torch.zeros(N, D))


def test_the_temperature_of_blip_is_a_parameter_within_bounds() -> None:
    method = built("blip-itc", BLIPOptions(queue=K))
    z, t, a, b = (rows(seed) for seed in range(4))
    batch = batch_of(N, torch.zeros(N, 16, dtype=torch.int64))
    loss, _ = method.loss([z, t, a.detach(), b.detach()], batch, 0, 1)
    assert [name for name, _ in method.criterion.named_parameters()] == ["tau"]
    loss.backward()
    assert abs(float(method.criterion.tau.grad)) > 0
    for value, kept in ((0.7, 0.5), (0.0, 0.001)):
        with torch.no_grad():
            method.criterion.tau.fill_(value)
        method.fresh, method.fresh_ids = [a.detach(), b.detach()], None
        method.after_step(0, 1)
        assert method.scalars()["temperature"] == pytest.approx(kept)
    assert not BLIPOptions(learnable_temperature=False).learnable_temperature
    fixed = built("blip-itc", BLIPOptions(queue=K, learnable_temperature=False))
    assert not any(p.requires_grad for p in fixed.criterion.parameters())


def test_the_queue_of_blip_is_a_multiple_of_the_batch() -> None:
    with pytest.raises(ValueError, match="queue must be a multiple of the 12 keys of a step, such as 36 or 48, got 40"):
        BLIPITC.check(text_config("blip-itc", options=BLIPOptions(queue=40)), FACTS)
    with pytest.raises(ValueError, match="bias must be a finite number"):
        text_config("siglip", options=SigLIPOptions(bias=math.inf))


@pytest.mark.parametrize("caption", [2.0, 0.0])
def test_coca_is_clip_and_the_cost_of_a_token(caption: float) -> None:
    method = built("coca", CoCaOptions(caption=caption, text_heads=2, decoder_layers=1))
    generator = torch.Generator().manual_seed(4)
    views = torch.rand(1, N, 3, 32, 32, generator=generator, dtype=torch.float64)
    tokens = torch.randint(3, 30, (N, 16), generator=generator)
    for row in range(N):
        tokens[row, row + 2] = 1
        tokens[row, row + 3 :] = 0 if row % 2 else 7  # whatever follows the end does not count
    batch = batch_of(N, tokens)
    h, embeddings = method(views, tokens)
    loss, sums = method.loss(embeddings, batch, 0, 10)
    clip = CLIP.loss(method, embeddings[2:], batch, 0, 10)[0]
    torch.testing.assert_close(embeddings[2:], (method.head(h), method.encode_text(tokens)))
    if caption == 0:
        assert not hasattr(method, "decoder") and float(loss.detach()) == float(clip.detach())
        return
    costs: list[Tensor] = []
    for row in range(N):  # each caption alone, cut off behind its end
        end = row + 2
        states = method.text.states(tokens[row : row + 1, : end + 1])
        mask = nn.Transformer.generate_square_subsequent_mask(end, dtype=torch.float64)
        memory = method.seen(h[row])[None, None]
        logits = method.words(method.decoder(states[:, :end], memory, tgt_mask=mask))[0]
        costs += [-logits[place].log_softmax(0)[tokens[row, place + 1]] for place in range(end)]
    expected = torch.stack(costs).mean()
    assert float(sums["caption_loss"]) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert float(loss.detach()) == pytest.approx(float((clip + 2 * expected).detach()), rel=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_the_places_of_an_image_are_what_its_features_are_made_of(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name, size=224 if "swin" in name else 64, **({"patch_size": 16} if "vit" in name else {}))
    images = torch.rand(1, 3, *[224 if "swin" in name else 64] * 2)
    assert has_places(encoder, images.shape[-1]) and encoder.training
    h, places = features_and_places(encoder.eval(), images, True)
    torch.testing.assert_close(h, encoder(images))
    assert places.dim() == 3 and places.shape[1] > 1 and places.shape[2] == h.shape[1]
    pooled = places[:, 0] if "vit" in name else places.mean(1)
    torch.testing.assert_close(pooled, h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "hgnetv2_b0", "coat_tiny", "<a map>"])
def test_coca_takes_encoders_whose_places_are_not_what_the_features_are_made_of(name: str) -> None:
    pair = built("clip", CLIPOptions()).float()
    given = timm.create_model("resnet10t", num_classes=0, global_pool="") if name == "<a map>" else None
    encoder = build_encoder(name, size=32, given=given)
    head = build_head("linear", feature_dim(encoder, 32), D, 1, 1, bn=False)
    options = CoCaOptions(text_heads=2, decoder_layers=1)
    method = CoCa(encoder, head, pair.text, None, pair.views, options).eval()
    images, tokens = torch.rand(2, 3, 32, 32), torch.tensor([[5, 6, 1, 0], [5, 1, 0, 0]])
    h, (costs, counts, z, t) = method(images[None], tokens)
    torch.testing.assert_close(h, encoder(images))
    assert counts.tolist() == [2, 1] and torch.isfinite(costs).all() and z.shape == t.shape == (2, D)


def test_coca_needs_a_causal_tower() -> None:
    torch.manual_seed(0)
    method = built("clip", CLIPOptions())
    method.text.causal = False
    options = CoCaOptions(text="bert")
    with pytest.raises(ValueError, match="CoCa needs a causal text tower, such as clip, got 'bert'"):
        CoCa(method.encoder, method.head, method.text, None, method.views, options)
