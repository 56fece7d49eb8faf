"""A whole training step by stage, as a ladder: from plain PyTorch code, replacing one part after another by ours."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastclr.augment import AugmentConfig, SimCLRAugment
from fastclr.bench.augment_peers import torchvision_steps
from fastclr.bench.ceilings import Ceilings
from fastclr.bench.loss_peers import dense, require
from fastclr.bench.rows import OURS, Attempt, Contestant, Row, Unsuitable, WrongResultError
from fastclr.bench.timing import Effort, contest
from fastclr.losses import nt_xent
from fastclr.methods.model import build_model
from fastclr.training.config import PretrainConfig

TEMPERATURE = 0.5
# (device, bfloat16) -> relative error of all gradients together against float64. bfloat16 rounds every activation of an
# untrained network; float32 convolutions run in TF32 on a GPU
LIMITS = {("cpu", False): 2e-2, ("cuda", False): 0.1, ("cpu", True): 0.3, ("cuda", True): 0.3}
CHECKED_LARGE = 16  # images in the float64 gate where a whole batch would not fit


@dataclass(frozen=True)
class Rung:
    """The parts of a training step; each rung of the ladder changes one of them."""

    name: str
    augment: bool = False
    loss: bool = False
    bf16: bool = False
    compile: bool = False


LADDER = (
    Rung("pytorch"),
    Rung("+augment", augment=True),
    Rung("+loss", augment=True, loss=True),
    Rung("+bf16, channels_last", augment=True, loss=True, bf16=True),
    Rung(OURS, augment=True, loss=True, bf16=True, compile=True),
)
RUNG_NOTES = {
    "pytorch": "torchvision v2 per image on the CPU, dense loss, float32",
    "+augment": "SimCLRAugment on the batch",
    "+loss": "and nt_xent",
    "+bf16, channels_last": "and bfloat16 autocast in channels_last",
    OURS: "and torch.compile of the model: everything",
}


@dataclass(frozen=True)
class StepCase:
    """A training step of SimCLR on images of one size that are already on the device.

    Args:
        encoder: timm's name; `width` multiplies its channels.
        size: side of the images and the views, in pixels.
        batch: images per step.
        device: where the model runs.
        backend: torch.compile's backend.
    """

    encoder: str
    width: float
    size: int
    batch: int
    device: str = "cpu"
    backend: str = "inductor"

    @property
    def name(self) -> str:
        """The case's name."""
        return f"{self.encoder}-x{self.width:g}-{self.size}px-batch{self.batch}"

    def toy(self) -> StepCase:
        """The same case with a thin encoder and few images."""
        return replace(self, encoder="resnet18", width=0.125, size=32, batch=4, backend="aot_eager")

    @property
    def config(self) -> PretrainConfig:
        """The configuration of the model."""
        augment = AugmentConfig.cifar(32) if self.size == 32 else AugmentConfig.imagenet(self.size)
        return PretrainConfig(encoder=self.encoder, width=self.width, augment=augment, batch_size=self.batch)

    def run(self, ceilings: Ceilings, effort: Effort, only: tuple[str, ...] = ()) -> list[Row]:
        """Time all rungs, or those named by `only`."""

        def base() -> Row:
            parameters = {"encoder": self.encoder, "width": self.width, "size": self.size, "batch": self.batch}
            parameters["device"] = self.device
            return Row(suite="step", case=self.name, provider="", status="ok", unit="images", parameters=parameters)

        def contestant(rung: Rung) -> Contestant:
            return Contestant(rung.name, lambda: attempt(self, rung), ("torchvision", "timm"), RUNG_NOTES[rung.name])

        chosen = [contestant(rung) for rung in LADDER if not only or rung.name in only]
        return contest(chosen, base, torch.device(self.device), effort)


def cases(device: torch.device) -> list[StepCase]:
    """All cases of a device, the most important first."""
    if device.type == "cpu":
        return [StepCase("resnet18", 0.25, 32, 128)]
    return [StepCase("resnet18", 1.0, 32, 512, "cuda"), StepCase("resnet50", 1.0, 224, 256, "cuda")]


@dataclass
class Trainer:
    """The model and optimiser of a rung; `step` makes one update from views on the device."""

    rung: Rung
    model: nn.Module
    called: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    device: torch.device
    epochs: Any = field(default_factory=itertools.count)

    @staticmethod
    def build(case: StepCase, rung: Rung, config: PretrainConfig | None = None) -> Trainer:
        """Build the model, with the same weights for every rung."""
        device = torch.device(case.device)
        torch.manual_seed(0)
        model: nn.Module = build_model(config or case.config).to(device)
        if rung.bf16:
            model = model.to(memory_format=torch.channels_last)
        called = model
        if rung.compile:
            torch.compiler.reset()
            called = torch.compile(model, dynamic=False, backend=case.backend)  # type: ignore[assignment]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.06, momentum=0.9, weight_decay=5e-4)
        return Trainer(rung, model, called, optimizer, device)

    def embed(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return the projections of both views ``[2, N, 3, S, S]``."""
        stacked = views.flatten(0, 1)
        if self.rung.bf16:
            stacked = stacked.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.rung.bf16):
            z: Tensor = self.called(stacked)
        z0, z1 = z.chunk(2)
        return z0, z1

    def loss(self, z: tuple[Tensor, Tensor]) -> Tensor:
        """Return NT-Xent."""
        return nt_xent(*z, TEMPERATURE) if self.rung.loss else dense(*z, TEMPERATURE)

    def backward(self, loss: Tensor) -> Tensor:
        """Compute all gradients anew."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return loss

    def update(self, loss: Tensor) -> Tensor:
        """Update the weights."""
        self.optimizer.step()
        return loss.detach()


def attempt(case: StepCase, rung: Rung) -> Attempt:
    """Build the stages of a rung."""
    require("timm")
    trainer = Trainer.build(case, rung)
    augment = our_views(case, rung.bf16) if rung.augment else usual_views(case)
    checked = case if case.size <= 64 else replace(case, batch=min(case.batch, CHECKED_LARGE))
    fixed, limit = our_views(checked)(None), LIMITS[trainer.device.type, rung.bf16]
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}

    def check() -> float:
        trainer.backward(trainer.loss(trainer.embed(fixed)))
        found = [p.grad for p in trainer.model.parameters() if p.requires_grad]
        error = gradient_error(found, true_gradients(case, fixed))
        trainer.model.load_state_dict(before)
        if not error <= limit:
            raise WrongResultError(error, limit, "gradient of the weights")
        return error

    stages: dict[str, Callable[[Any], Any]] = {"augment": augment, "forward": trainer.embed, "loss": trainer.loss}
    stages |= {"backward": trainer.backward, "update": trainer.update}
    return Attempt(stages, check, case.batch)


def pictures(count: int, size: int) -> Tensor:
    """Return smooth random images, uint8 ``[count, size, size, 3]``.

    Noise would not do: to an untrained encoder all noise images look nearly the same, and batch normalisation amplifies
    the rounding errors in their differences.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (255 * smooth).byte().permute(0, 2, 3, 1).contiguous()


def our_views(case: StepCase, channels_last: bool = False) -> Callable[[Any], Tensor]:
    """Return a function that makes two views with the operator, on the device if it is built for it."""
    device = torch.device(case.device)
    where = device if SimCLRAugment.supports(device) else torch.device("cpu")
    if not SimCLRAugment.supports(where):
        raise Unsuitable("the operator is not built: `fastclr info` says why")
    images = pictures(case.batch, case.size).to(where)
    augment = SimCLRAugment(case.config.augment, views=2, channels_last=channels_last)
    epochs = itertools.count()
    ids = torch.arange(case.batch, device=where)
    return lambda _: augment(images, ids, next(epochs)).to(device)


def usual_views(case: StepCase) -> Callable[[Any], Tensor]:
    """Return a function that makes two views with torchvision, image by image on the CPU, in this process."""
    from torchvision.transforms import v2

    config = case.config.augment
    window = 2 * (case.size // 10 // 2) + 1 if config.blur_p > 0 else 1
    transform = v2.Compose([*torchvision_steps(config, window), v2.ToDtype(torch.float32, scale=True)])
    planar = list(pictures(case.batch, case.size).permute(0, 3, 1, 2).contiguous())

    def views(_: Any) -> Tensor:
        made = [torch.stack([transform(image) for image in planar]) for _ in range(2)]
        return torch.stack(made).to(case.device)

    return views


def true_gradients(case: StepCase, views: Tensor) -> list[Tensor]:
    """Return the gradients of all weights in float64, from the plain model and the dense loss."""
    torch.manual_seed(0)
    model = build_model(case.config).to(case.device).double()
    z0, z1 = model(views.flatten(0, 1).double()).chunk(2)
    z = nn.functional.normalize(torch.cat([z0, z1]), dim=1)
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    positive = torch.arange(len(z), device=z.device).roll(len(z0))
    loss = nn.functional.cross_entropy(logits, positive)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(loss, parameters))


def gradient_error(found: list[Tensor | None], expected: list[Tensor]) -> float:
    """Return the relative error of all gradients together; a missing one counts as zero."""
    filled = [torch.zeros_like(e) if f is None else f.double() for f, e in zip(found, expected, strict=True)]
    difference = sum(float((f - e).square().sum()) for f, e in zip(filled, expected, strict=True))
    return float((difference / sum(float(e.square().sum()) for e in expected)) ** 0.5)
