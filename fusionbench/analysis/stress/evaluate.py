"""One model, the same photographs, many versions of the metadata."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusionbench.analysis.stress.scenarios import Cells, Scenario
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin.fusion import Fusion
from fusionbench.progress import Task
from fusionbench.training.feed import Arrays, batches
from fusionbench.training.loop import EVALUATED, evaluated
from fusionbench.training.placement import Placement


@torch.no_grad()
def probabilities(
    model: FusionModel,
    images: Tensor,
    rows: NDArray[np.int64],
    cells: Cells,
    todo: Sequence[Scenario],
    placement: Placement,
    task: Task | None = None,
) -> NDArray[np.float64]:
    """(scenarios, n, K) of the n `rows` of `images`, whose metadata are `cells`.

    Each photograph is read once; where the method fuses late, the backbone sees it once, too.
    `model` is in evaluation mode on the device of `placement`.
    """
    task = task or Task()
    out = np.empty((len(todo), len(rows), model.spec.classes))
    unused = torch.zeros(len(images), 0)
    arrays = Arrays(images, unused, torch.zeros(len(images), dtype=torch.int64))
    # The batches of the record's own evaluation.
    for batch in batches(arrays, rows, EVALUATED, placement.device, keep_single=True):
        start, stop = batch.start, batch.start + len(batch.image)
        image = evaluated(batch.image, model)
        told = (torch.from_numpy(s.encoded(cells, start, stop)).to(placement.device) for s in todo)
        for i, logits in enumerate(_logits(model, image, told, placement)):
            out[i, start:stop] = torch.softmax(logits.double(), dim=1).cpu().numpy()
        task.advance(stop - start)
    return out


def _logits(
    model: FusionModel, image: Tensor, metadata: Iterable[Tensor], placement: Placement
) -> Iterator[Tensor]:
    """The model's logits (B, K) for each of `metadata` (B, M) beside the same images."""
    fusion = model.fusion
    if type(fusion).stage is not Fusion.stage:  # the backbone's own features depend on them
        for meta in metadata:
            with placement.autocast():
                yield model(image, meta).logits
        return
    with placement.autocast():
        features, _ = model.backbone(image, lambda k, tokens: tokens)
    for meta in metadata:
        with placement.autocast():
            yield model.late(features, fusion.encode(meta))[0]
