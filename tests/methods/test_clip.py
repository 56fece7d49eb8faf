"""CLIP is open_clip's and transformers' loss on the same towers, without false negatives; the towers are theirs too."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.sparse.csgraph import connected_components
from text_cases import batch_of, make_tiny_pair, text_config
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.augment import AugmentConfig
from fastclr.methods import CLIP, METHODS, CLIPOptions, Facts, ViewPlan
from fastclr.methods.image_text import ImageText
from fastclr.methods.pair_ids import joined
from fastclr.methods.text import TextOptions, TextTower, build_tower
from fastclr.methods.tokenizers import Vocabulary

N = 12
FACTS = Facts(images=64, labelled=0, classes=0, world_size=1, batch_size=N)


def made(**options: Any) -> CLIP:
    torch.manual_seed(0)
    method = make_tiny_pair(text_config("clip", options=CLIPOptions(**options)), FACTS).double()
    assert isinstance(method, CLIP)
    return method


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    views = torch.rand(1, N, 3, 32, 32, generator=generator, dtype=torch.float64)
    texts = torch.randint(3, 30, (N, 16), generator=generator)
    texts[:, 9] = 1
    texts[:, 10:] = 0
    return views, texts


def gradients(method: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    return found


def test_a_step_is_that_of_open_clip() -> None:
    open_clip = pytest.importorskip("open_clip")
    method, (views, texts) = made(), inputs()
    _, embeddings = method(views, texts)
    loss, _ = method.loss(embeddings, batch_of(N, texts), 0, 10)
    loss.backward()
    found = gradients(method)
    log_tau: Any = method.criterion.log_temperature
    assert float(log_tau.detach()) == pytest.approx(math.log(0.07), rel=1e-6)
    log_scale = (-log_tau).detach().requires_grad_()
    z, t = method(views, texts)[1]
    theirs = open_clip.ClipLoss()(F.normalize(z, dim=-1), F.normalize(t, dim=-1), log_scale.exp())
    theirs.backward()
    assert float(loss.detach()) == pytest.approx(float(theirs.detach()), rel=1e-10)
    # the factor is exp(-log_temperature)
    expected = {**gradients(method), "criterion.log_temperature": -log_scale.grad}  # type: ignore[operator]
    assert set(found) == set(expected) and len(found) > 6
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-10, msg=name)


def test_the_loss_is_that_of_transformers_on_its_own_towers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    text = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 16, "bos_token_id": None, "eos_token_id": 1}
    image = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    image |= {"image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=8)
    theirs = transformers.CLIPModel(config).double().eval()

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = theirs.vision_model

        def forward(self, images: Tensor) -> Tensor:
            pooled: Tensor = self.inner(images).pooler_output
            return pooled

    tower = build_tower(
        TextOptions(text_width=16, text_layers=2, text_heads=2, quick_gelu=True), Vocabulary(40, 16, 1, 0)
    )
    tower.model = theirs.text_model
    plan = ViewPlan(AugmentConfig(32), 1)
    method = CLIP(Pooled(), theirs.visual_projection, tower, theirs.text_projection, plan, CLIPOptions()).double()
    with torch.no_grad():
        method.criterion.log_temperature.copy_(-theirs.logit_scale)  # type: ignore[operator, union-attr]
    views, texts = inputs()
    embeddings = method(views, texts)[1]
    loss, _ = method.loss(embeddings, batch_of(N, texts), 0, 10)
    expected = theirs(input_ids=texts, pixel_values=views[0], return_loss=True)
    assert float(loss.detach()) == pytest.approx(float(expected.loss.detach()), rel=1e-6)
    torch.testing.assert_close(F.normalize(embeddings[1], dim=1), expected.text_embeds)


def masked(z: Tensor, t: Tensor, same: Tensor) -> Tensor:
    """The formula of CLIP, pair by pair, without the pairs that are the same."""
    s = F.normalize(z, dim=1) @ F.normalize(t, dim=1).T / 0.07
    out = same & ~torch.eye(N, dtype=torch.bool)
    rows, columns = (x.masked_fill(out, -math.inf).logsumexp(1) for x in (s, s.T))
    return ((rows + columns) / 2 - s.diagonal()).mean()


def test_equal_captions_and_equal_pictures_are_no_negatives() -> None:
    (views, texts), method = inputs(), made()
    embeddings = method(views, texts)[1]
    text_ids = torch.tensor([5, 5, 7, 8, 9, -3, -3, 2**62, 2**62, 1, 2, 3])
    image_ids = torch.tensor([0, 1, 2, 3, 3, 5, 6, 6, 8, 9, 10, 11])
    batch = batch_of(N, texts, text_ids, image_ids)
    # 5 and 6 share the caption, 6 and 7 the picture, 7 and 8 the caption: all four are one
    groups = torch.tensor([0, 0, 2, 3, 3, 5, 5, 5, 5, 9, 10, 11])
    same = groups[:, None] == groups[None]
    found = float(method.loss(embeddings, batch, 0, 10)[0].detach())
    assert found == pytest.approx(float(masked(*embeddings, same).detach()), rel=1e-6)
    everything = made(mask=False).loss(embeddings, batch, 0, 10)[0]
    plain = float(masked(*embeddings, torch.eye(N, dtype=torch.bool)).detach())
    assert float(everything.detach()) == pytest.approx(plain, rel=1e-6) and plain > found + 1e-3


def test_rows_are_joined_as_the_components_of_a_graph() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        columns = torch.randint(0, 40, (30, 2), generator=generator)
        graph = (columns[:, None] == columns[None]).any(2).numpy()
        _, components = connected_components(graph, directed=False)
        labels = joined(columns)
        assert torch.equal(labels[:, None] == labels[None], torch.from_numpy(components[:, None] == components[None]))
        assert torch.equal(labels[labels], labels) and bool((labels <= torch.arange(30)).all())


def test_the_factor_stays_within_1_and_100() -> None:
    method = made()
    for value, kept in ((-9.0, -math.log(100)), (0.5, 0.0), (-1.0, -1.0)):
        with torch.no_grad():
            method.criterion.log_temperature.fill_(value)  # type: ignore[operator, union-attr]
        method.after_step(0, 10)
        assert method.scalars() == {"temperature": pytest.approx(math.exp(kept), rel=1e-6)}
    fixed = made(learnable_temperature=False)
    fixed.after_step(0, 10)
    assert fixed.scalars() == {"temperature": pytest.approx(0.07, rel=1e-6)}


def test_weight_decay_leaves_gains_biases_and_the_temperature_alone() -> None:
    pytest.importorskip("transformers")
    config = text_config("clip", encoder="vit_tiny_patch16_224", width=1.0, options=CLIPOptions(text_layers=1))
    method = METHODS["clip"].build(config, Facts(1, 0, 0, 1, vocabulary=Vocabulary(300, 16, 2, 0)))
    assert isinstance(method, ImageText)
    names = {id(p): name for name, p in method.named_parameters()}
    groups = method.groups("adamw")
    decayed = {names[id(p)] for group in groups if group.decay for p in group.parameters}
    left = {names[id(p)] for group in groups if not group.decay for p in group.parameters}
    assert decayed | left == set(names.values()) and not decayed & left
    assert "criterion.log_temperature" in left
    assert {"text_head.weight", "head.0.weight", "text.model.embeddings.token_embedding.weight"} <= decayed
    bare = {name for name, p in method.named_parameters() if p.dim() < 2}
    assert bare <= left and not any(name.startswith("text") for name in left - bare)
    assert method.head[0].bias is None and method.text_head.bias is None  # type: ignore[index]


VOCABULARY = Vocabulary(40, 12, 3, 0)


@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_what_follows_the_end_of_a_text_changes_nothing(kind: str) -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    tower = build_tower(TextOptions(text=kind, text_width=16, text_layers=2, text_heads=2), VOCABULARY).eval()
    tokens = torch.randint(4, 40, (5, 12))
    tokens[:, 6] = 3
    tokens[:, 7:] = 0
    features = tower(tokens)
    assert features.shape == (5, 16) == (5, tower.width)
    changed = tokens.clone()
    if kind == "clip":
        changed[:, 7:] = 9  # the features are those of the first end, which sees what is before
        torch.testing.assert_close(tower(changed), features)
    else:
        with torch.no_grad():
            tower.model.embeddings.word_embeddings.weight[0] = 7.0  # type: ignore[union-attr, index]
        torch.testing.assert_close(tower(tokens), features)
    changed[:, 5] = 11 + (tokens[:, 5] == 11)
    assert bool(((tower(changed) - features).abs().amax(1) > 1e-4).all())


def test_a_tower_of_open_clip_is_the_one_in_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    open_clip = pytest.importorskip("open_clip")
    text = {"context_length": 12, "vocab_size": 40, "width": 16, "heads": 2, "layers": 2}
    image = {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8}
    described = {"embed_dim": 8, "vision_cfg": image, "text_cfg": text, "quick_gelu": True}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: described if name == "small" else None)
    torch.manual_seed(0)
    theirs = open_clip.CLIP(8, image, text, quick_gelu=True).eval()
    tower = build_tower(TextOptions(text="open_clip:small"), Vocabulary(40, 12, 39, 0)).eval()
    state = {n: v for n, v in theirs.state_dict().items() if not n.startswith(("visual.", "logit", "text_projection"))}
    tower.model.load_state_dict(state)
    tokens = torch.randint(1, 39, (5, 12))
    tokens[:, 7] = 39
    torch.testing.assert_close(tower(tokens) @ theirs.text_projection, theirs.encode_text(tokens))
    with pytest.raises(ValueError, match=r"small takes 40 different tokens, 12 of them in a text, and the tokenizer"):
        build_tower(TextOptions(text="open_clip:small"), Vocabulary(41, 12, 39, 0))
    with pytest.raises(ValueError, match="open_clip has no model 'smal'"):
        build_tower(TextOptions(text="open_clip:smal"), VOCABULARY)


def test_a_folder_of_transformers_is_a_tower_with_its_weights(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    bert = transformers.BertModel(transformers.BertConfig(**sizes, num_attention_heads=2, max_position_embeddings=12))
    bert.save_pretrained(tmp_path)
    tower: TextTower = build_tower(TextOptions(text=str(tmp_path)), VOCABULARY).eval()
    tokens = torch.randint(4, 40, (5, 12))
    tokens[:, -1] = VOCABULARY.end
    expected = bert.eval()(tokens, torch.ones_like(tokens)).last_hidden_state.mean(1)
    torch.testing.assert_close(tower(tokens), expected)
    again = build_tower(TextOptions(text=str(tmp_path)), VOCABULARY, fresh=False).eval()
    assert float((again(tokens) - expected).abs().max().detach()) > 1e-3  # those of a checkpoint follow
    with pytest.raises(FileNotFoundError, match=r"folder with the config\.json"):
        build_tower(TextOptions(text=str(tmp_path / "none")), VOCABULARY)


def test_a_method_of_texts_refuses_images_without() -> None:
    views, _ = inputs()
    with pytest.raises(ValueError, match="CLIP needs the captions of a batch as token ids"):
        made()(views)
    with pytest.raises(ValueError, match="CLIP needs captions of its images, and there are none"):
        METHODS["clip"].build(text_config("clip"), FACTS)
