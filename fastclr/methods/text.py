"""Text towers: networks of transformers and open_clip, from token ids to features."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastclr.methods.options import Check, MethodOptions, temperature_check
from fastclr.methods.tokenizers import BYTES, Vocabulary
from fastclr.sources.packages import needed

OPEN_CLIP = "open_clip:"
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True, kw_only=True)
class TextOptions(MethodOptions):
    """The options of a method of images and texts: tokens, text tower, and which pairs are compared."""

    tokenizer: str = "bpe"
    """`bpe`, trained on the captions and stored in the run; `open_clip`, CLIP's; or the folder of a tokenizer."""
    vocabulary: int = 4096
    """Most tokens of bpe, at least 259."""
    context: int | None = None
    """Tokens of a caption. Default: 77, for bpe what the longest caption takes, from 16 to 77."""
    text: str = "clip"
    """Text tower: `clip`, `bert`, `open_clip:NAME` as ViT-B-32, or the folder of a model of transformers."""
    text_width: int = 128
    """Features of the towers clip and bert; CLIP's has 512."""
    text_layers: int = 4
    """Their layers; CLIP's has 12."""
    text_heads: int = 4
    """Attention heads of a layer; CLIP's has 8."""
    quick_gelu: bool = False
    """Activation x sigmoid(1.702 x) in the text tower, as in the weights of OpenAI and in PLIP."""
    temperature: float = 0.07
    """Temperature of the loss at the start."""
    learnable_temperature: bool = True
    """Train the temperature as well, down to 0.01."""
    mask: bool = True
    """Two pairs with the same caption, or the same picture, are not each other's negatives."""

    @property
    def view_count(self) -> int:
        """Number of views of an image."""
        return 1

    def checks(self) -> list[Check]:
        """Return the constraints on the values."""
        return [
            ("tokenizer", self.tokenizer != "", "bpe, open_clip or a folder"),
            ("vocabulary", BYTES + 3 <= self.vocabulary <= 2**20, "259 to 2**20"),
            ("context", self.context is None or 4 <= self.context <= 2**14, "4 to 2**14 or None"),
            ("text", self.text != "", "clip, bert, open_clip:NAME or a folder"),
            ("text_width", 1 <= self.text_width <= 2**14, "1 to 2**14"),
            ("text_layers", 1 <= self.text_layers <= 256, "1 to 256"),
            ("text_heads", 1 <= self.text_heads <= self.text_width, "1 to text_width"),
            ("text_heads", self.text_width % max(self.text_heads, 1) == 0, f"a divisor of {self.text_width}"),
            temperature_check(self.temperature),
        ]


class TextTower(nn.Module):
    """Features ``[n, F]`` of token ids ``[n, L]``: at the end token (CLIP), or the mean over the tokens of a text.

    Args:
        model: a network of transformers or of open_clip.
        width: number F of features.
        vocabulary: the tokens that it takes.

    Attributes:
        causal: whether it has states of all tokens, each of which depends on those before it alone.
    """

    causal: ClassVar[bool] = False

    def __init__(self, model: nn.Module, width: int, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.model, self.width, self.vocabulary = model, width, vocabulary

    def states(self, tokens: Tensor) -> Tensor:
        """Return the features of every token ``[n, L, F]``."""
        raise NotImplementedError

    def forward(self, tokens: Tensor) -> Tensor:
        """Return features ``[n, F]``."""
        return self.at_end(self.states(tokens), tokens)

    def at_end(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return the state of the first end token of every text."""
        # the length of a tensor would be a constant to torch.export
        return states[torch.arange(states.shape[0], device=states.device), self.ends(tokens)]

    def ends(self, tokens: Tensor) -> Tensor:
        """Return the place of the first end token of every text, int64 ``[n]``."""
        return (tokens == self.vocabulary.end).int().argmax(dim=1)

    def kept(self, tokens: Tensor) -> Tensor:
        """Tell which tokens belong to a text, its end included, bool ``[n, L]``."""
        return torch.arange(tokens.shape[1], device=tokens.device) <= self.ends(tokens)[:, None]


class ClipText(TextTower):
    """CLIP's text tower, of transformers: each token sees those before it."""

    causal = True

    def states(self, tokens: Tensor) -> Tensor:
        """Return the features of every token ``[n, L, F]``."""
        found: Tensor = self.model(input_ids=tokens).last_hidden_state
        return found


class MeanText(TextTower):
    """A network of transformers in which all tokens of a text see each other, such as BERT."""

    def states(self, tokens: Tensor) -> Tensor:
        """Return the features of every token ``[n, L, F]``."""
        found: Tensor = self.model(input_ids=tokens, attention_mask=self.kept(tokens).long()).last_hidden_state
        return found

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the mean over the tokens of a text, ``[n, F]``."""
        kept = self.kept(tokens)[..., None]
        states = self.states(tokens)
        return (states * kept).sum(dim=1) / kept.sum(dim=1).clamp_min(1)


class OpenClipText(TextTower):
    """A text tower of open_clip without its projection."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return features ``[n, F]``."""
        found: Tensor = self.model(tokens)
        return found


def build_tower(options: TextOptions, vocabulary: Vocabulary, *, fresh: bool = True) -> TextTower:
    """Build the text tower that `options` describe, initialised from torch's global generator.

    Args:
        options: its kind and size.
        vocabulary: the tokens that it must take.
        fresh: whether the weights of a folder are read, or only its configuration.

    Raises:
        FileNotFoundError: there is no such folder.
        ModuleNotFoundError: a package of ``fastclr[text]`` is missing.
        ValueError: the tower does not take these tokens, or there is no such tower.
    """
    if options.text.startswith(OPEN_CLIP):
        return open_clip_tower(options.text.removeprefix(OPEN_CLIP), vocabulary)
    models: Any = needed("transformers", "text towers need transformers", "text")
    if options.text not in ("clip", "bert"):
        return folder_tower(Path(options.text).expanduser(), vocabulary, fresh)
    activation = "quick_gelu" if options.quick_gelu else "gelu"
    shared: dict[str, Any] = {
        "vocab_size": vocabulary.size,
        "hidden_size": options.text_width,
        "intermediate_size": 4 * options.text_width,
        "num_hidden_layers": options.text_layers,
        "num_attention_heads": options.text_heads,
        "max_position_embeddings": vocabulary.context,
        "hidden_act": activation,
    }
    if options.text == "clip":
        ends = {"bos_token_id": None, "eos_token_id": vocabulary.end, "pad_token_id": None}
        model = models.CLIPTextModel(models.CLIPTextConfig(**shared, **ends))
        return ClipText(model, options.text_width, vocabulary)
    # without dropout a step is the same on one process and on several
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": vocabulary.pad}
    model = models.BertModel(models.BertConfig(**shared, **none), add_pooling_layer=False)
    return MeanText(model, options.text_width, vocabulary)


def folder_tower(folder: Path, vocabulary: Vocabulary, fresh: bool) -> TextTower:
    """Return the text tower that a folder of transformers describes, with its weights if there are any and `fresh`."""
    models: Any = needed("transformers", "text towers need transformers", "text")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"text must be clip, bert, open_clip:NAME, or a folder with the config.json of a model of transformers, "
            f"got {str(folder)!r}"
        )
    config = models.AutoConfig.from_pretrained(folder, local_files_only=True)
    is_clip = config.model_type in ("clip", "clip_text_model")
    config = getattr(config, "text_config", config)
    check_fits(str(folder), vocabulary, config.vocab_size, getattr(config, "max_position_embeddings", None))
    kind = models.CLIPTextModel if is_clip else models.AutoModel
    options = {} if is_clip else {"add_pooling_layer": False}
    stored = fresh and any(file for pattern in WEIGHTS for file in folder.glob(pattern))
    try:
        model = load_folder(kind, folder, config, options, stored)
    except TypeError:  # a model that never has a pooling layer
        model = load_folder(kind, folder, config, {}, stored)
    tower = (ClipText if is_clip else MeanText)(model, config.hidden_size, vocabulary)
    tower.train()
    return tower


def load_folder(kind: Any, folder: Path, config: Any, options: dict[str, Any], stored: bool) -> Any:
    """Return a model of transformers, with the weights of a folder or random ones."""
    if not stored:
        make = kind._from_config if hasattr(kind, "_from_config") else kind.from_config
        return make(config, **options)
    model, about = kind.from_pretrained(
        folder, config=config, local_files_only=True, output_loading_info=True, dtype=torch.float32, **options
    )
    if missing := sorted(about["missing_keys"]):
        raise ValueError(f"text: {folder} lacks {len(missing)} weights of its own model: {', '.join(missing[:5])}")
    return model


def open_clip_tower(name: str, vocabulary: Vocabulary) -> OpenClipText:
    """Return the text tower of a model that open_clip knows by name, with random weights."""
    library: Any = needed("open_clip.transformer", "the towers of open_clip need open_clip_torch", "text")
    import open_clip

    known = open_clip.get_model_config(name)
    if known is None:
        near = [each for each in open_clip.list_models() if name.lower() in each.lower()][:5]
        raise ValueError(f"text: open_clip has no model {name!r}" + (f"; similar: {', '.join(near)}" if near else ""))
    described = dict(known["text_cfg"])
    if "hf_model_name" in described:
        raise ValueError(
            f"text: the text tower of open_clip's {name} is {described['hf_model_name']} of transformers: give the "
            "folder of that model"
        )
    check_fits(name, vocabulary, described.get("vocab_size", 49408), described.get("context_length", 77))
    accepted = inspect.signature(library.TextTransformer.__init__).parameters
    options = {key: value for key, value in described.items() if key in accepted}
    options |= {"context_length": vocabulary.context, "output_dim": None}
    # the tokens need not be CLIP's, whose end is the largest id
    if options.get("pool_type", "argmax") in ("argmax", "eos"):
        options |= {"pool_type": "eos", "eos_id": vocabulary.end}
    options |= {"pad_id": vocabulary.pad}
    activation = library.QuickGELU if known.get("quick_gelu") else nn.GELU
    options["act_layer"] = partial(activation, **(described.get("act_kwargs") or {}))
    if described.get("norm_kwargs"):
        options["norm_layer"] = partial(library.LayerNorm, **described["norm_kwargs"])
    model = library.TextTransformer(**options)
    return OpenClipText(model, described.get("width", 512), vocabulary)


def check_fits(name: str, vocabulary: Vocabulary, size: int, context: int | None) -> None:
    """Raise a ValueError if a tower of fixed size cannot take the tokens."""
    if vocabulary.size > size or (context is not None and vocabulary.context > context):
        raise ValueError(
            f"text: {name} takes {size} different tokens, {context} of them in a text, and the tokenizer has "
            f"{vocabulary.size}, {vocabulary.context} in a text: give the tokenizer that belongs to it, or a smaller "
            "context"
        )
