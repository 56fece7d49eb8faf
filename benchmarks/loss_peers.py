"""The libraries that `LossCase` compares, each behind a small adaptor with settings that are fair to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastclr.bench.loss_cases import TEMPERATURE, Layout, LossCase, check_gradient
from fastclr.bench.loss_gate import forward_backward
from fastclr.bench.rows import Attempt, Contestant, Unsuitable
from fastclr.bench.timing import run
from fastclr.losses import CLIPLoss, NTXentLoss

# (z0, z1, tau) -> loss; tau is a number, or a tensor if it is learnable
LossFunction = Callable[[Tensor, Tensor, Any], Tensor]
GRAPH_UP_TO = 4096  # rows; beyond this the cost of launches is negligible
EAGER = "eager; logits in the input's dtype, softmax in float32"
SAFE_SHARE = 0.7  # of the host's free memory: beyond this the system might kill the process


def contestants(case: LossCase) -> list[Contestant]:
    """Return the contestants for the layout of `case`, fastclr first."""
    if case.layout == "clip":
        return [
            _contestant("fastclr", case, lambda: fastclr_clip(case)),
            _contestant("pytorch", case, lambda: clip, note=EAGER, matrices=4),
            _contestant("pytorch-compile", case, lambda: compiled(clip), matrices=4),
            _contestant("open_clip", case, lambda: open_clip(case), ("open_clip_torch",), matrices=4),
            _contestant("memeff", case, lambda: memeff(case), ("memeff",), "stable=False: the true gradient"),
            _contestant("inf-cl", case, lambda: inf_cl(case), ("inf-cl",), "one call for each direction"),
            _contestant(
                "cut-cross-entropy",
                case,
                lambda: cut_cross_entropy(case),
                ("cut-cross-entropy",),
                "filter_eps=None: its filter drops most of a contrastive gradient; one call for each direction",
            ),
        ]
    found = [
        _contestant("fastclr", case, lambda: fastclr(case)),
        _contestant("pytorch", case, lambda: dense, note=EAGER, matrices=3.3),
        _contestant("pytorch-compile", case, lambda: compiled(dense), matrices=3.3),
        _contestant("lightly", case, lambda: lightly(case), ("lightly",), matrices=4.2),
        _contestant(
            "pytorch-metric-learning",
            case,
            lambda: metric_learning(case),
            ("pytorch-metric-learning",),
            matrices=4.25 * case.rows,  # it materialises every (positive, negative) pair
        ),
        _contestant("solo-learn", case, lambda: solo_learn, note="its formula: exp without a shift", matrices=4.3),
    ]
    if case.device != "cpu" and case.rows <= GRAPH_UP_TO and not case.learnable:
        found.insert(1, Contestant("fastclr-graph", lambda: graphed(case), note="replays a CUDA graph"))
    return found


def _contestant(
    name: str,
    case: LossCase,
    make: Callable[[], LossFunction],
    packages: tuple[str, ...] = (),
    note: str = "",
    matrices: float = 0.0,
) -> Contestant:
    """Make a contestant that allocates about `matrices` times 4 M^2 bytes."""

    def prepare() -> Attempt:
        loss_of = make()
        guard_memory(case.device, matrices * 4 * case.rows**2)
        return attempt(case, loss_of, case.layout)

    return Contestant(name, prepare, packages, note)


def attempt(case: LossCase, loss_of: LossFunction, layout: Layout) -> Attempt:
    """Build forward and backward of a loss on the inputs of `case`."""
    views = case.views(layout)
    tau = torch.tensor(TEMPERATURE, device=case.device, requires_grad=True) if case.learnable else None

    leaves = [*views, *([] if tau is None else [tau])]
    program = forward_backward(leaves, lambda: loss_of(views[0], views[1], TEMPERATURE if tau is None else tau))

    def check() -> float:
        loss = run(program)
        d_tau = None if tau is None else (float("nan") if tau.grad is None else float(tau.grad))
        return check_gradient(case, layout, loss, views, d_tau)

    return Attempt(program, check, case.rows)


def fastclr(case: LossCase) -> LossFunction:
    """The module with its defaults; if the temperature is learnable, the function with a tensor."""
    from fastclr.losses import nt_xent

    if case.learnable:
        return lambda z0, z1, tau: nt_xent(z0, z1, tau)
    module = NTXentLoss(TEMPERATURE).to(case.device)
    return lambda z0, z1, _: module(z0, z1)


def fastclr_clip(case: LossCase) -> LossFunction:
    """The module, which takes the factor of the similarities."""
    module = CLIPLoss().to(case.device)
    return lambda x, y, tau: module(x, y, 1.0 / tau)


def graphed(case: LossCase) -> Attempt:
    """fastclr's forward and backward, captured once in a CUDA graph and replayed."""
    views, module = case.views(), NTXentLoss(TEMPERATURE).to(case.device)

    def compute() -> tuple[Tensor, ...]:
        loss = module(*views)
        return (loss, *torch.autograd.grad(loss, views))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            compute()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = compute()

    def replay(_: Any) -> Tensor:
        graph.replay()
        return captured[0]

    def check() -> float:
        replay(None)
        for view, gradient in zip(views, captured[1:], strict=True):
            view.grad = gradient
        return check_gradient(case, "ntxent", captured[0], views, None)

    return Attempt({"replay": replay}, check, case.rows, allocates=False)


def dense(z0: Tensor, z1: Tensor, tau: Any) -> Tensor:
    """The usual implementation: the full matrix of logits with a masked diagonal, and cross-entropy."""
    z = F.normalize(torch.cat([z0, z1]).float(), dim=1).to(z0.dtype)
    logits = (z @ z.T).float() / tau
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = torch.arange(len(z), device=z.device).roll(len(z0))
    return F.cross_entropy(logits.masked_fill(itself, -torch.inf), positive)


def clip(x: Tensor, y: Tensor, tau: Any) -> Tensor:
    """CLIP's loss as in its paper: the mean of the cross-entropies over rows and over columns."""
    x, y = (F.normalize(side.float(), dim=1).to(side.dtype) for side in (x, y))
    logits = (x @ y.T).float() / tau
    positive = torch.arange(len(x), device=x.device)
    return (F.cross_entropy(logits, positive) + F.cross_entropy(logits.T, positive)) / 2


def compiled(loss_of: LossFunction) -> LossFunction:
    """torch.compile of a plain loss, specialised to this shape."""
    torch.compiler.reset()
    made: LossFunction = torch.compile(loss_of, dynamic=False)
    return made


def lightly(case: LossCase) -> LossFunction:
    """lightly.loss.NTXentLoss."""
    require("lightly")
    if case.learnable:
        raise Unsuitable("its temperature is a number")
    from lightly.loss import NTXentLoss as LightlyLoss

    module = LightlyLoss(TEMPERATURE).to(case.device)
    return lambda z0, z1, _: module(z0, z1)


def metric_learning(case: LossCase) -> LossFunction:
    """SelfSupervisedLoss(NTXentLoss) of pytorch-metric-learning, whose memory grows with the cube of the rows."""
    require("pytorch_metric_learning")
    if case.learnable:
        raise Unsuitable("its temperature is a number")
    from pytorch_metric_learning.losses import NTXentLoss as PmlLoss
    from pytorch_metric_learning.losses import SelfSupervisedLoss

    module = SelfSupervisedLoss(PmlLoss(temperature=TEMPERATURE))
    return lambda z0, z1, _: module(z0, z1)


def solo_learn(z0: Tensor, z1: Tensor, tau: Any) -> Tensor:
    """solo-learn's formula for two views: ``-mean_i log(e_ip / (e_ip + sum over negatives e_ij))``."""
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    similarity = torch.exp(z @ z.T / tau)
    ids = torch.arange(len(z), device=z.device) % len(z0)
    same = ids[:, None] == ids[None]
    positive = same & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    above = (similarity * positive).sum(1)
    below = (similarity * ~same).sum(1)
    return -torch.log(above / (above + below)).mean()


def open_clip(case: LossCase) -> LossFunction:
    """open_clip.loss.ClipLoss on unit rows, with its scale as a factor."""
    require("open_clip")
    from open_clip.loss import ClipLoss

    module = ClipLoss()
    return lambda x, y, tau: module(F.normalize(x, dim=1), F.normalize(y, dim=1), 1 / tau)


def memeff(case: LossCase) -> LossFunction:
    """MemoryEfficientCLIPLoss of memeff."""
    require("memeff")
    _needs_cuda(case)
    if case.learnable:
        raise Unsuitable("its temperature is a number")
    from memeff import MemoryEfficientCLIPLoss

    module = MemoryEfficientCLIPLoss(temperature=TEMPERATURE, stable=False)
    return lambda x, y, _: module(x, y)


def inf_cl(case: LossCase) -> LossFunction:
    """cal_flash_loss of inf-cl in both directions; its `head_dim` must divide D."""
    require("inf_cl")
    _needs_cuda(case)
    head = math.gcd(case.dim, 128)
    if head < 16:
        raise Unsuitable(f"its head_dim must divide D = {case.dim} and be at least 16")
    from inf_cl import cal_flash_loss

    def loss_of(x: Tensor, y: Tensor, tau: Any) -> Tensor:
        x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
        there = cal_flash_loss(x, y, scale=1 / tau, head_dim=head).mean()
        back = cal_flash_loss(y, x, scale=1 / tau, head_dim=head).mean()
        both: Tensor = (there + back) / 2
        return both

    return loss_of


def cut_cross_entropy(case: LossCase) -> LossFunction:
    """linear_cross_entropy in both directions, with the other side as the classifier."""
    require("cut_cross_entropy")
    _needs_cuda(case)
    from cut_cross_entropy import linear_cross_entropy

    target = torch.arange(case.rows, device=case.device)

    def loss_of(x: Tensor, y: Tensor, tau: Any) -> Tensor:
        x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
        there = linear_cross_entropy(x / tau, y, target, filter_eps=None)
        back = linear_cross_entropy(y / tau, x, target, filter_eps=None)
        both: Tensor = (there + back) / 2
        return both

    return loss_of


def require(module: str) -> None:
    """Raise ModuleNotFoundError, without importing anything, if a module is not installed."""
    if find_spec(module) is None:
        raise ModuleNotFoundError(f"no module named {module}", name=module)


def guard_memory(device: str, needed: float) -> None:
    """Raise MemoryError before a computation would exhaust the host's memory; a GPU raises by itself."""
    if device != "cpu":
        return
    from fastclr.device import available_memory

    free = available_memory()
    if needed > SAFE_SHARE * free:
        raise MemoryError(f"needs about {needed / 2**30:,.0f} GiB, {free / 2**30:,.0f} GiB are free; not tried")


def _needs_cuda(case: LossCase) -> None:
    if case.device == "cpu":
        raise Unsuitable("runs on CUDA devices only")
