"""Metadata dropout: in training, some of what is known of a patient is withheld.

A withheld cell looks to the model as a cell that was never recorded does under the run's policy for
missing values, so a network learns what to do without it.

    cell    each characteristic of each photograph, on its own
    block   all columns of a block that goes unrecorded together, or none of them, per photograph

Two chances that meet add up as chances do: 1 - (1 - cell) * (1 - block).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fusionbench.data.blocks import recorded_together
from fusionbench.data.encoder import MetadataEncoder

# Tells this stream of random numbers from those that order and augment the same epoch.
STREAM = 30


@dataclass(frozen=True)
class MetadataDropout:
    """What is withheld how often, of encoded metadata with M features of C columns.

    blank    (M,) float32, on the device of training: what a row without any record encodes to
    column   (M,) which of the C columns a feature belongs to
    blocks   (blocks, C) bool, which columns each block has
    """

    blank: Tensor
    column: np.ndarray
    blocks: np.ndarray
    cell_rate: float
    block_rate: float

    @classmethod
    def fitted(
        cls,
        encoder: MetadataEncoder,
        train: pd.DataFrame,
        cell_rate: float,
        block_rate: float,
        device: torch.device,
    ) -> MetadataDropout:
        """For an encoder that was fitted on the training rows `train`.

        The blocks are those of the training rows (fusionbench.data.blocks); where no columns go
        unrecorded together there, all columns are one block.
        """
        names = [c.name for c in encoder.columns]
        blocks = recorded_together(train[names]) or (tuple(names),)
        members = np.array([[name in block for name in names] for block in blocks], dtype=bool)
        blank = torch.from_numpy(encoder.blank()).to(device)
        return cls(blank, encoder.sources, members, cell_rate, block_rate)

    def draw(self, n: int, seed: int, epoch: int) -> Tensor:
        """(n, M) bool, what an epoch's n photographs go without, in the order they come. The same
        for the same seed and epoch, on any device."""
        rng = np.random.default_rng([seed, epoch, STREAM])
        cells = rng.random((n, self.blocks.shape[1])) < self.cell_rate
        taken = rng.random((n, len(self.blocks))) < self.block_rate
        cells |= (taken[:, :, None] & self.blocks).any(axis=1)
        return torch.from_numpy(cells[:, self.column]).to(self.blank.device)

    def apply(self, meta: Tensor, hidden: Tensor) -> Tensor:
        """(B, M) metadata with what is `hidden`, their rows of `draw`, left blank."""
        return torch.where(hidden, self.blank, meta)
