"""SimCLR as a LightningModule: fastclr's views and loss, Lightning's loop.

    python examples/with_lightning.py        # pip install pytorch-lightning

The DataLoader yields raw uint8 images and their ids; the views are made on the device, in `training_step`. Under DDP
the loss gathers the other ranks' embeddings and has the gradient of the global batch.
"""

from __future__ import annotations

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fastclr import AugmentConfig, NTXentLoss, SimCLRAugment
from fastclr.data import make_shapes


class SimCLR(LightningModule):
    """An encoder with a projection head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 32, 5, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 128))
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(128, 64))
        self.augment = SimCLRAugment(AugmentConfig.cifar(32), views=2, seed=0)
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Return the loss of a batch of images [N, H, W, 3] with their ids [N]."""
        images, ids = batch
        views = self.augment(images, ids, self.current_epoch)
        z0, z1 = self.head(self.encoder(views.flatten(0, 1))).chunk(2)
        loss: Tensor = NTXentLoss(temperature=0.2, gather_distributed=self.trainer.world_size > 1)(z0, z1)
        self.losses.append(loss.item())
        return loss

    def on_train_epoch_end(self) -> None:
        """Print the mean loss of the epoch."""
        print(f"epoch {self.current_epoch}  loss {sum(self.losses) / len(self.losses):.4f}")
        self.losses.clear()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser."""
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main() -> None:
    """Train for some epochs."""
    torch.manual_seed(0)
    shapes = make_shapes(train=512, test=8).train
    if not isinstance(shapes.images, Tensor):
        raise TypeError("the shapes are of one size")
    data = DataLoader(TensorDataset(shapes.images, shapes.ids), batch_size=128, shuffle=True, drop_last=True)
    trainer = Trainer(
        max_epochs=10, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="auto"
    )
    trainer.fit(SimCLR(), data)


if __name__ == "__main__":
    main()
