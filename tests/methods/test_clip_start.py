"""Local checkpoints of open_clip and transformers: both towers, heads and factor, or a word on what does not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from text_cases import text_config
from torch import Tensor, nn
from torch.nn import functional as F

from fastclr.augment import AugmentConfig
from fastclr.methods import CLIP, METHODS, BLIPOptions, CLIPOptions, Facts
from fastclr.methods.image_text import ImageText
from fastclr.methods.tokenizers import Vocabulary
from fastclr.training.config import PretrainConfig

WIDTH, SIZE, PATCH, DIM = 192, 32, 8, 24  # of timm's smallest ViT of CLIP's kind
TOWERS = ("encoder", "width", "head_dim", "init", "augment")
WORDS = Vocabulary(size=40, context=12, end=39, pad=0)
OPTIONS: dict[str, Any] = {"text_width": 16, "text_layers": 2, "text_heads": 2, "quick_gelu": True}
FACTS = Facts(images=64, labelled=0, classes=0, world_size=1, batch_size=16, vocabulary=WORDS)


def config_of(init: Path | None, **changes: Any) -> PretrainConfig:
    own = {"encoder": "fastclr_test_vit", "width": 1.0, "head_dim": DIM, "init": None if init is None else str(init)}
    augment = AugmentConfig(SIZE, flip_p=0.0)
    return text_config("clip", **{**own, "augment": augment, "options": CLIPOptions(**OPTIONS), **changes})


@pytest.fixture(scope="module", autouse=True)
def small_vit() -> None:
    """A ViT of CLIP's kind for small images under a name of its own."""
    timm = pytest.importorskip("timm")
    from timm.models import register_model
    from timm.models.vision_transformer import _create_vision_transformer

    if timm.is_model("fastclr_test_vit"):
        return

    def fastclr_test_vit(pretrained: bool = False, **options: Any) -> Any:
        sizes: dict[str, Any] = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": 3, "pre_norm": True}
        sizes |= {"act_layer": "quick_gelu", "norm_layer": norm, **options}
        return _create_vision_transformer("vit_tiny_patch16_224", pretrained=False, **sizes)

    def norm(width: int, **options: Any) -> nn.LayerNorm:
        return nn.LayerNorm(width, eps=1e-5)

    fastclr_test_vit.__module__ = "timm.models.vision_transformer"
    register_model(fastclr_test_vit)


def open_clip_model() -> Any:
    open_clip = pytest.importorskip("open_clip")
    image = {"image_size": SIZE, "layers": 2, "width": WIDTH, "patch_size": PATCH, "head_width": 64}
    text = {"context_length": 12, "vocab_size": 40, "width": 16, "heads": 2, "layers": 2}
    torch.manual_seed(3)
    return open_clip.CLIP(DIM, image, text, quick_gelu=True).eval()


def transformers_model() -> Any:
    transformers = pytest.importorskip("transformers")
    text = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 12, "bos_token_id": None, "eos_token_id": 39}
    image = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 3}
    image |= {"image_size": SIZE, "patch_size": PATCH}
    torch.manual_seed(3)
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=DIM)
    ).eval()


def inputs() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(1, 39, (4, 12))
    tokens[:, 7], tokens[:, 8:] = 39, 0
    return torch.rand(4, 3, SIZE, SIZE), tokens


def stored(model: Any, file: Path, wrapped: bool) -> Path:
    state = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    if wrapped:
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, file)
    else:
        save_file(state, file)
    return file


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(F.normalize(found, dim=1), F.normalize(expected, dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("library", ["open_clip", "open_clip wrapped", "transformers"])
def test_both_towers_of_a_checkpoint_give_its_embeddings(library: str, tmp_path: Path) -> None:
    theirs = transformers_model() if library == "transformers" else open_clip_model()
    with torch.no_grad():
        theirs.logit_scale.fill_(3.25)
        for parameter in theirs.parameters():  # those that start at 0 or 1 too
            if parameter.dim():
                parameter.add_(0.02 * torch.randn_like(parameter))
    file = stored(theirs, tmp_path / "clip.any", library.endswith("wrapped"))
    config = dataclasses.replace(config_of(file), fresh=True)
    method = METHODS["clip"].build(config, FACTS).eval()
    assert isinstance(method, CLIP)
    images, tokens = inputs()
    if library == "transformers":
        out = theirs(input_ids=tokens, pixel_values=images)
        expected = out.image_embeds, out.text_embeds
    else:
        expected = theirs.encode_image(images), theirs.encode_text(tokens)
    assert_same(method.encode_image(images), expected[0])
    assert_same(method.encode_text(tokens), expected[1])
    assert method.scalars()["temperature"] == pytest.approx(torch.tensor(-3.25).exp().item(), rel=1e-5)
    count = len(list(method.text.model.parameters()))
    assert f"  {count} of {count} weights of the text tower matched" in method.started
    assert {"  the head of the image tower matched", "  the head of the text tower matched"} <= set(method.started)


def test_twins_start_from_the_file_too(tmp_path: Path) -> None:
    file = stored(transformers_model(), tmp_path / "clip.safetensors", False)
    config = dataclasses.replace(
        text_config("blip-itc", **{name: getattr(config_of(file), name) for name in TOWERS}),
        fresh=True,
        options=BLIPOptions(**OPTIONS, queue=32),
    )
    method: Any = METHODS["blip-itc"].build(config, FACTS).eval()
    images, tokens = inputs()
    torch.testing.assert_close(method.image_twin(images), method.encode_image(images))
    torch.testing.assert_close(method.text_twin(tokens), method.encode_text(tokens))


def test_what_does_not_fit_is_named_and_nothing_is_taken(tmp_path: Path) -> None:
    file = stored(open_clip_model(), tmp_path / "clip.safetensors", False)
    wide = CLIPOptions(**{**OPTIONS, "text_layers": 3})
    with pytest.raises(ValueError, match=r"lacks 16 of the 52 weights of the text tower: encoder\.layers\.2\."):
        METHODS["clip"].build(dataclasses.replace(config_of(file, options=wide), fresh=True), FACTS)
    longer = dataclasses.replace(FACTS, vocabulary=dataclasses.replace(WORDS, context=16))
    with pytest.raises(ValueError, match=r"position_embedding\.weight \(\[12, 16\] there, \[16, 16\] here\)"):
        METHODS["clip"].build(dataclasses.replace(config_of(file), fresh=True), longer)
    with pytest.raises(ValueError, match=r"head of the image tower must be \[16, 192\], and in .* it is \[24, 192\]"):
        METHODS["clip"].build(dataclasses.replace(config_of(file, head_dim=16), fresh=True), FACTS)
    partial = config_of(file, head_dim=16, options=wide, init_partial=True)
    method = METHODS["clip"].build(dataclasses.replace(partial, fresh=True), FACTS)
    assert isinstance(method, ImageText) and "  36 of 52 weights of the text tower matched" in method.started
    assert not any("head" in line for line in method.started)


def test_a_file_without_texts_starts_the_encoder_alone(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    plain = METHODS["clip"].build(config_of(None), FACTS)
    save_file({n: t.clone() for n, t in plain.encoder.state_dict().items()}, tmp_path / "vit.safetensors")
    torch.manual_seed(5)
    method = METHODS["clip"].build(dataclasses.replace(config_of(tmp_path / "vit.safetensors"), fresh=True), FACTS)
    assert method.started == (
        f"the text tower starts from random weights: {tmp_path}/vit.safetensors has no text tower of CLIP",
    )
    for name, tensor in plain.encoder.state_dict().items():
        assert torch.equal(method.encoder.state_dict()[name], tensor)
    assert plain.started == ()
