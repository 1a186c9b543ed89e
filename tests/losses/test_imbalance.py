"""Focal, balanced softmax and LDAM-DRW against plain loops; what they do at their limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from fusionbench.contract import assert_ok, check_loss
from fusionbench.contract.loss_contract import LOSS_CHECKS
from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Spec, Stage
from fusionbench.plugin.loss import CombinedLoss, Loss, Output, balanced_weights

COUNTS = (120, 5, 52, 900)
TARGET = [0, 1, 3, 3, 2, 0, 3]
NAMES = ("focal", "balanced-softmax", "ldam")


def spec(counts: tuple[int, ...] = COUNTS) -> Spec:
    return Spec((Stage(4, (2, 2)),), width=6, metadata=3, classes=4, embedding=6, counts=counts)


def build(name: str, counts: tuple[int, ...] = COUNTS, **params: Any) -> Loss:
    return registry.load(registry.find("losses", name), Loss)(spec(counts), **params)


def value_of(loss: Loss, logits: Tensor, target: list[int] | None = None) -> Tensor:
    output = Output(logits, torch.zeros(len(logits), 6), ())
    ((_, value),) = loss(output, torch.tensor(TARGET if target is None else target)).items()
    return value


def random_logits(scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(len(TARGET), 4, generator=generator, dtype=torch.float64)


def softmax(row: list[Tensor]) -> list[Tensor]:
    exps = [torch.exp(v) for v in row]
    return [e / sum(exps) for e in exps]


def focal_loops(logits: Tensor, gamma: float, alphas: list[float]) -> Tensor:
    losses, weights = [], []
    for row, y in zip(logits, TARGET, strict=True):
        p = softmax(list(row))[y]
        losses.append(-alphas[y] * (1 - p) ** gamma * torch.log(p))
        weights.append(alphas[y])
    return sum(losses) / sum(weights)


def balanced_softmax_loops(logits: Tensor, tau: float) -> Tensor:
    """Ren et al.'s form: n_y^tau e^z_y / sum over k of n_k^tau e^z_k."""
    losses = []
    for row, y in zip(logits, TARGET, strict=True):
        shares = [n**tau * torch.exp(z) for n, z in zip(COUNTS, row, strict=True)]
        losses.append(-torch.log(shares[y] / sum(shares)))
    return sum(losses) / len(losses)


def ldam_loops(
    logits: Tensor, max_margin: float, scale: float, weights: list[float] | None
) -> Tensor:
    """scale * (logit - margin of the true class)."""
    quarter = [1 / math.sqrt(math.sqrt(n)) for n in COUNTS]
    margins = [max_margin * q / max(quarter) for q in quarter]
    losses, used = [], []
    for row, y in zip(logits, TARGET, strict=True):
        scores = [z - (margins[y] if k == y else 0) for k, z in enumerate(row)]
        p = softmax([scale * s for s in scores])[y]
        used.append(weights[y] if weights else 1.0)
        losses.append(-used[-1] * torch.log(p))
    return sum(losses) / sum(used)


def effective_number_weights(beta: float) -> list[float]:
    raw = [(1 - beta) / (1 - beta**n) for n in COUNTS]
    return [w / sum(raw) * len(raw) for w in raw]


def assert_same(loss: Loss, oracle: Any, *arguments: Any) -> None:
    """Values, and gradients with respect to the logits, in float64."""
    logits = random_logits().requires_grad_()
    got, want = value_of(loss, logits), oracle(logits, *arguments)
    assert got.dtype == torch.float64
    # The constants of the class counts are kept in float32.
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
    (got_grad,) = torch.autograd.grad(got, logits)
    (want_grad,) = torch.autograd.grad(want, logits)
    torch.testing.assert_close(got_grad, want_grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_equals_plain_loops(gamma: float, weights: str) -> None:
    alphas = [1.0] * 4
    if weights == "balanced":
        rows = np.repeat(np.arange(4), COUNTS)
        alphas = compute_class_weight("balanced", classes=np.arange(4), y=rows).tolist()
    assert_same(build("focal", gamma=gamma, class_weights=weights), focal_loops, gamma, alphas)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_balanced_softmax_equals_plain_loops(tau: float) -> None:
    assert_same(build("balanced-softmax", tau=tau), balanced_softmax_loops, tau)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
@pytest.mark.parametrize(("max_margin", "scale"), [(0.0, 30.0), (0.5, 1.0), (0.5, 30.0), (2.0, 5)])
def test_ldam_equals_plain_loops_before_and_after_its_re_weighting(
    max_margin: float, scale: float, beta: float
) -> None:
    loss = build("ldam", max_margin=max_margin, scale=scale, beta=beta)
    loss.begin_epoch(8, 10)
    assert_same(loss, ldam_loops, max_margin, scale, None)
    loss.begin_epoch(9, 10)
    assert_same(loss, ldam_loops, max_margin, scale, effective_number_weights(beta))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("focal", {"gamma": 0.0}),
        ("balanced-softmax", {"tau": 0.0}),
        ("ldam", {"max_margin": 0.0, "scale": 1.0}),
    ],
)
def test_each_is_cross_entropy_at_its_neutral_setting(name: str, params: dict[str, float]) -> None:
    logits = random_logits().float()
    want = value_of(build("ce"), logits)
    torch.testing.assert_close(value_of(build(name, **params), logits), want)
    balanced = value_of(build("ce", class_weights="balanced"), logits)
    if name == "focal":
        loss = build("focal", gamma=0.0, class_weights="balanced")
        torch.testing.assert_close(value_of(loss, logits), balanced)


def test_focal_hardly_counts_what_is_certain() -> None:
    certain, doubtful = torch.tensor([[4.0, 0, 0, 0]]), torch.tensor([[0.5, 0, 0, 0]])
    ratios = []
    for name in ("ce", "focal"):
        loss = build(name)
        ratios.append(float(value_of(loss, certain, [0]) / value_of(loss, doubtful, [0])))
    assert ratios[1] < 0.05 * ratios[0]


# ---- when the re-weighting begins


@pytest.mark.parametrize(
    ("drw_from", "epochs", "first"),
    [
        (0.8, 200, 161),  # the paper's: after 160 of 200
        (0.8, 30, 25),
        (0.8, 1, None),
        (0.5, 3, 3),
        (0.55, 100, 56),  # 0.55 * 100 is above 55 in floating point
        (0.0, 5, 1),
        (1.0, 5, None),
    ],
)
def test_re_weighting_begins_after_its_share_of_the_epochs(
    drw_from: float, epochs: int, first: int | None
) -> None:
    loss = build("ldam", drw_from=drw_from)
    plain = value_of(loss, random_logits())
    on = []
    for epoch in range(1, epochs + 1):
        loss.begin_epoch(epoch, epochs)
        if not torch.equal(value_of(loss, random_logits()), plain):
            on.append(epoch)
    assert on == (list(range(first, epochs + 1)) if first else [])
    loss.begin_epoch(1, 2)  # begun anew: drw_from=0.5 and above wait again
    if drw_from >= 0.5:
        assert torch.equal(value_of(loss, random_logits()), plain)


def test_a_combined_loss_tells_every_part_which_epoch_begins() -> None:
    told: list[tuple[str, int, int]] = []

    class Listens(Loss):
        def begin_epoch(self, epoch: int, epochs: int) -> None:
            told.append((type(self).__name__, epoch, epochs))

    class Other(Listens):
        pass

    combined = CombinedLoss({"a": Listens(spec()), "ce": build("ce"), "b": Other(spec())})
    combined.begin_epoch(3, 7)
    assert told == [("Listens", 3, 7), ("Other", 3, 7)]


# ---- at the limits


@pytest.mark.parametrize("scale", [1e4, 0.0])
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("focal", {"gamma": 0.5}),  # (1 - p)^gamma has an infinite slope at p = 1
        ("focal", {"gamma": 2.0}),
        ("focal", {"class_weights": "balanced"}),
        ("balanced-softmax", {}),
        ("ldam", {}),
        ("ldam", {"drw_from": 0.0}),
    ],
    ids=str,
)
def test_extreme_logits_under_bf16_give_finite_values_and_gradients(
    name: str, params: dict[str, Any], scale: float
) -> None:
    logits = random_logits(scale)
    logits[0, TARGET[0]] = 3e4  # certain, and right
    logits[1, TARGET[1]] = -3e4  # certain, and wrong
    low = logits.bfloat16().requires_grad_()
    high = low.detach().double().requires_grad_()
    loss = build(name, **params)
    loss.begin_epoch(1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        value = value_of(loss, low)
    assert value.dtype == torch.float32
    want = value_of(loss, high)
    torch.testing.assert_close(value.double(), want, rtol=1e-5, atol=1e-6)
    value.backward()
    want.backward()
    torch.testing.assert_close(low.grad.double(), high.grad, rtol=1e-2, atol=1e-6)
    assert torch.isfinite(high.grad).all()
    assert high.grad[1].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_class_without_training_images_counts_as_the_rarest_one(name: str) -> None:
    params = {"class_weights": "balanced"} if name == "focal" else {}
    absent = build(name, counts=(120, 5, 0, 900), **params)
    alike = build(name, counts=(120, 5, 5, 900), **params)
    for loss in (absent, alike):
        loss.begin_epoch(1, 1)
    logits = random_logits()
    without = [0, 1, 3, 3, 1, 0, 3]  # no image of class 2
    torch.testing.assert_close(
        value_of(absent, logits, without), value_of(alike, logits, without), rtol=1e-2, atol=0
    )
    assert torch.isfinite(value_of(absent, logits, [2] * 7))


WEIGHTED = [n for n, e in registry.discover("losses").items() if "class_weights" in e.defaults]


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("counts", [(90, 10, 0, 40), (7, 0, 0, 7), (120, 5, 52, 900)])
def test_balanced_weights_are_one_rule(name: str, counts: tuple[int, ...]) -> None:
    """scikit-learn's over the classes that are there; an absent one as the rarest of them."""
    present = np.flatnonzero(counts)
    rows = np.repeat(np.arange(4), counts)
    want = np.full(4, compute_class_weight("balanced", classes=present, y=rows).max())
    want[present] = compute_class_weight("balanced", classes=present, y=rows)
    assert balanced_weights(spec(counts)).tolist() == pytest.approx(want.tolist(), rel=1e-6)
    assert any(
        torch.equal(buffer, balanced_weights(spec(counts)))
        for buffer in build(name, counts=counts, class_weights="balanced").buffers()
    )


@pytest.mark.parametrize("counts", [(), (0, 0, 0, 0), (1, 2, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_counts_that_are_unknown_are_refused(name: str, counts: tuple[int, ...]) -> None:
    params = {"class_weights": "balanced"} if name == "focal" else {}
    with pytest.raises(ValueError, match="training images per class"):
        build(name, counts=counts, **params)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("focal", {"gamma": -1.0}),
        ("focal", {"gamma": math.nan}),
        ("balanced-softmax", {"tau": -0.1}),
        ("ldam", {"max_margin": -0.1}),
        ("ldam", {"scale": 0.0}),
        ("ldam", {"drw_from": 1.1}),
        ("ldam", {"beta": 1.0}),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name: str, params: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(params))}="):
        build(name, **params)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("focal", {"gamma": 0.5, "class_weights": "balanced"}),
        ("balanced-softmax", {"tau": 2.0}),
        ("ldam", {"scale": 1.0}),
    ],
    ids=str,
)
def test_options_keep_the_contract(name: str, params: dict[str, Any]) -> None:
    cls = registry.load(registry.find("losses", name), Loss)
    assert_ok(check_loss(cls, params=params, backbones=(), only=set(LOSS_CHECKS) - {"compiled"}))


def test_the_contract_also_holds_once_the_re_weighting_is_on() -> None:
    base: Any = registry.load(registry.find("losses", "ldam"), Loss)

    class Late(base):
        def __init__(self, spec: Spec, *, max_margin: float = 0.5) -> None:
            super().__init__(spec, max_margin=max_margin, drw_from=0.0)
            self.begin_epoch(1, 1)

    assert_ok(check_loss(Late, backbones=(), only=set(LOSS_CHECKS) - {"compiled"}))


def test_what_is_in_force_is_saved() -> None:
    loss, fresh = build("ldam"), build("ldam")
    loss.begin_epoch(10, 10)
    assert not torch.equal(value_of(loss, random_logits()), value_of(fresh, random_logits()))
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(value_of(loss, random_logits()), value_of(fresh, random_logits()))
