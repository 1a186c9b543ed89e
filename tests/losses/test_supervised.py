"""Cross-entropy and deep supervision against plain loops, class weights against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Spec, Stage
from fusionbench.plugin.loss import CombinedLoss, Loss, Output, total

COUNTS = (12, 1, 5, 30)
SPEC = Spec(
    stages=(Stage(4, (3, 2)), Stage(6, (1, 2))),
    width=6,
    metadata=3,
    classes=4,
    embedding=6,
    counts=COUNTS,
)
TARGET = [0, 1, 3, 3, 2, 0]


def loss_class(name: str) -> type[Loss]:
    return registry.load(registry.find("losses", name), Loss)


def output() -> Output:
    torch.manual_seed(0)
    return Output(
        3 * torch.randn(6, 4),
        torch.randn(6, 6),
        tuple(torch.randn(6, s.grid[0] * s.grid[1], s.channels) for s in SPEC.stages),
    )


def log_softmax(row: list[float]) -> list[float]:
    top = max(row)
    norm = top + math.log(sum(math.exp(v - top) for v in row))
    return [v - norm for v in row]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_cross_entropy_equals_plain_loops(weights: str, smoothing: float) -> None:
    loss = loss_class("ce")(SPEC, class_weights=weights, label_smoothing=smoothing)
    rows = np.repeat(np.arange(4), COUNTS)
    w = (
        compute_class_weight("balanced", classes=np.arange(4), y=rows)
        if weights != "none"
        else [1.0] * 4
    )
    summed = norm = 0.0
    for row, label in zip(output().logits.double().tolist(), TARGET, strict=True):
        logp = log_softmax(row)
        hard = -w[label] * logp[label]
        soft = -sum(w[k] * logp[k] for k in range(4)) / 4
        summed += (1 - smoothing) * hard + smoothing * soft
        norm += w[label]
    (got,) = loss(output(), torch.tensor(TARGET)).values()
    assert float(got) == pytest.approx(summed / norm, rel=1e-5)


def test_balanced_weights_are_scikit_learns_and_need_counts() -> None:
    loss = loss_class("ce")(SPEC, class_weights="balanced")
    rows = np.repeat(np.arange(4), COUNTS)
    want = compute_class_weight("balanced", classes=np.arange(4), y=rows)
    assert loss.weights.tolist() == pytest.approx(want.tolist(), rel=1e-6)
    assert loss_class("ce")(SPEC).weights is None
    without = Spec(stages=SPEC.stages, width=6, metadata=3, classes=4, embedding=6)
    with pytest.raises(ValueError, match="training images per class"):
        loss_class("ce")(without, class_weights="balanced")


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_outside_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        loss_class("ce")(SPEC, label_smoothing=smoothing)


def test_deep_supervision_equals_plain_loops() -> None:
    torch.manual_seed(4)
    loss = loss_class("deep-supervision")(SPEC, weight=0.4)
    stage_losses = []
    for head, tokens in zip(loss.heads, output().stages, strict=True):
        summed = 0.0
        for sample, label in zip(tokens.double().tolist(), TARGET, strict=True):
            pooled = [sum(column) / len(sample) for column in zip(*sample, strict=True)]
            scores = [
                sum(w * v for w, v in zip(row, pooled, strict=True)) + bias
                for row, bias in zip(head.weight.tolist(), head.bias.tolist(), strict=True)
            ]
            summed -= log_softmax(scores)[label]
        stage_losses.append(summed / len(TARGET))
    (got,) = loss(output(), torch.tensor(TARGET)).values()
    assert got.item() == pytest.approx(0.4 * sum(stage_losses) / len(stage_losses), rel=1e-5)


def test_combined_loss_names_and_sums_its_terms() -> None:
    class Two(Loss):
        def forward(self, output: Output, target: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}

    ce = loss_class("ce")(SPEC)
    combined = CombinedLoss({"ce": ce, "two": Two(SPEC)})
    terms = combined(output(), torch.tensor(TARGET))
    assert list(terms) == ["ce", "two/a", "two/b"]
    (alone,) = ce(output(), torch.tensor(TARGET)).values()
    assert float(total(terms)) == pytest.approx(float(alone) + 5.0)
