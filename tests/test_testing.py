"""The contract checks can fail: each is shown a plugin that breaks just that."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench.contract import Check, assert_ok, check_file, check_fusion, check_loss
from fusionbench.contract.fusion_contract import FUSION_CHECKS
from fusionbench.contract.loss_contract import LOSS_CHECKS
from fusionbench.contract.plugin_files import load_file
from fusionbench.errors import UsageError
from fusionbench.plugin.fusion import Fusion, FusionRefused, Spec
from fusionbench.plugin.loss import Loss, Output


class Gated(Fusion):
    """Keeps every contract; the broken ones below differ from it in one thing."""

    def __init__(self, spec: Spec, *, scale: float = 1.0) -> None:
        super().__init__(spec)
        self.gate = nn.Linear(spec.metadata, spec.width)
        self.scale = scale

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return image * torch.sigmoid(self.scale * self.gate(meta))


class StartsClosed(Gated):
    """A legitimate one: zero at the start, so that no other parameter has a gradient yet."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.open = nn.Parameter(torch.zeros(1))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return image + self.open * self.frozen * super().fuse(image, meta)


class WrongShape(Gated):
    def stage(self, k: int, tokens: Tensor, meta: Tensor) -> Tensor:
        return tokens[:, :-1]


class NotANumber(Gated):
    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return super().fuse(image, meta) * float("nan")


class Squeezes(Gated):
    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return image * torch.softmax(self.gate(meta).squeeze(), dim=1)


class DeadLayer(Gated):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.unused = nn.Linear(3, 3)


class TimesZero(Gated):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.muted = nn.Parameter(torch.ones(1))

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return super().fuse(image, meta) + 0 * self.muted


class CutsBackbone(Gated):
    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return super().fuse(image.detach(), meta)


class IgnoresMetadata(Gated):
    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return super().fuse(image, torch.ones_like(meta))


class UsesItSecretly(Gated):
    uses_metadata = False


class SubtractsBatchMean(Gated):
    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return super().fuse(image, meta - meta.mean(0))


class AlwaysDropsOut(Gated):
    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return F.dropout(super().fuse(image, meta), training=True)


class DrawsWithNumpy(Gated):
    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return super().fuse(image, meta) * float(np.random.rand())


class AddsInPlace(Gated):
    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        image += self.gate(meta)
        return image


class RectifiesTokens(Gated):
    def stage(self, k: int, tokens: Tensor, meta: Tensor) -> Tensor:
        return F.relu(tokens, inplace=True)


class MarksMetadata(Gated):
    def encode(self, meta: Tensor) -> Tensor:
        meta[:, 0] = 1
        return meta.clone()


class MixesBehindAGate(Gated):
    """Closed at the start, as ReZero and zero-initialised layers are."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.open = nn.Parameter(torch.zeros(1))

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return super().fuse(image + self.open * image.mean(0), meta)


class OverridesForward(Gated):
    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        return image * torch.sigmoid(self.gate(meta))


class CountsGlobally(Gated):
    calls: ClassVar[list[int]] = []

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        self.calls.append(1)
        return super().fuse(image, meta) * len(self.calls)


class RemembersLastBatch(Gated):
    last: float = 0.0

    def encode(self, meta: Tensor) -> Tensor:
        previous, self.last = self.last, float(meta.sum())
        return meta + previous


class LooseTensor(Gated):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.offset = torch.ones(spec.metadata)

    def encode(self, meta: Tensor) -> Tensor:
        return meta + self.offset


class UnsavedState(Gated):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.register_buffer("basis", torch.randn(spec.metadata), persistent=False)

    def encode(self, meta: Tensor) -> Tensor:
        return meta * self.basis


class TiedParameters(Gated):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.twin = nn.Linear(spec.metadata, spec.width)
        self.twin.weight = self.gate.weight

    def encode(self, meta: Tensor) -> Tensor:
        return meta + self.twin(meta).mean(1, keepdim=True)


class KeepsLambda(Gated):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.run = lambda meta: torch.sigmoid(self.gate(meta))

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return image * self.run(meta)


class LeavesHooks(Gated):
    def encode(self, meta: Tensor) -> Tensor:
        self.handle = self.gate.register_forward_hook(lambda *_: None)
        return meta

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        image = super().fuse(image, meta)
        self.handle.remove()
        return image


class HalfWayState(Gated):
    """`fuse` undoes what `encode` did, which an exception between them prevents."""

    depth = 0

    def encode(self, meta: Tensor) -> Tensor:
        self.depth += 1
        return meta * self.depth

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        self.depth -= 1
        return super().fuse(image, meta)


class ViewsItsKernel(Gated):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.kernel = nn.Parameter(torch.randn(1, spec.width, 3, 3))

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return super().fuse(image, meta) + self.kernel.view(1, -1)[:, : self.spec.width]


class LosesDigits(Gated):
    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        fused = super().fuse(image, meta)
        if torch.is_autocast_enabled("cpu"):
            fused = fused.bfloat16()
        return (fused + 1e3) - 1e3


class AsksForValues(Gated):
    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        fused = super().fuse(image, meta)
        return fused * 2 if float(meta.sum()) > 0 else fused


class AttendsOverTheBatch(Gated):
    """As public code does it: (B, E) tensors are one sequence of B tokens."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.ask = nn.Linear(spec.metadata, spec.width)
        self.attention = nn.MultiheadAttention(spec.width, 1, batch_first=True)

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return super().fuse(image, meta) + self.attention(self.ask(meta), image, image)[0]


class CentersTraining(Gated):
    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return super().fuse(image, meta - meta.mean(0) if self.training else meta)


class HeadOnLogProbabilities(Gated):
    """The head that the suite adds would stand on probabilities."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.classify = nn.Linear(spec.width, spec.classes)

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return F.log_softmax(self.classify(super().fuse(image, meta)), dim=1)


class HeadOnProbabilities(HeadOnLogProbabilities):
    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return super().fuse(image, meta).exp()


class ReadsUnrecorded(Gated):
    takes_recorded = True


class GroupsTwice(Gated):
    def parameter_groups(self) -> list[dict[str, object]]:
        return [{"params": [self.gate.weight]}, {"params": [self.gate.weight], "lr_scale": 0.1}]


class GroupsOfOthers(Gated):
    def parameter_groups(self) -> list[dict[str, object]]:
        return [{"params": [nn.Parameter(torch.zeros(1))]}]


class GroupsWithRates(Gated):
    def parameter_groups(self) -> list[dict[str, object]]:
        return [{"params": [self.gate.weight], "lr": 0.1}]


FUSIONS_THAT_BREAK = [
    ("shapes", WrongShape, r"stage\(0, …\) returned \(4, 15, 64\)"),
    ("shapes", NotANumber, "NaN"),
    ("batch of one", Squeezes, "IndexError"),
    ("gradients", DeadLayer, "no gradient reaches fusion.unused.weight"),
    ("gradients", TimesZero, "always zero for fusion.muted"),
    ("gradients", CutsBackbone, "parameters of the backbone"),
    ("metadata", IgnoresMetadata, "uses_metadata = False"),
    ("metadata", UsesItSecretly, "uses_metadata is False"),
    ("batch mates", SubtractsBatchMean, "depend on its batch mates"),
    ("in place", AddsInPlace, r"`fuse` changes its `image` in place .*x = x \+ y"),
    ("in place", RectifiesTokens, "`stage` changes its `tokens`"),
    ("in place", MarksMetadata, "`encode` changes its `meta`"),
    ("batch mates", MixesBehindAGate, "depend on its batch mates"),
    ("repeatable", AlwaysDropsOut, "in eval mode it draws random numbers"),
    ("repeatable", DrawsWithNumpy, "in eval mode it draws random numbers"),
    ("batch mates", AttendsOverTheBatch, "attends over the batch. Give it"),
    ("batch mates", CentersTraining, "in training mode"),
    ("head", HeadOnLogProbabilities, "fuse returns log-probabilities"),
    ("head", HeadOnProbabilities, "fuse returns probabilities"),
    ("recorded cells", ReadsUnrecorded, "the value of age matters"),
    ("parameter groups", GroupsTwice, "a parameter twice"),
    ("parameter groups", GroupsOfOthers, "not the method's"),
    ("parameter groups", GroupsWithRates, "unknown keys lr"),
    ("repeatable", CountsGlobally, "other values later"),
    ("repeatable", RemembersLastBatch, "other values later"),
    ("state dict", LooseTensor, "offset.*register_buffer"),
    ("state dict", UnsavedState, "after loading"),
    ("state dict", TiedParameters, "share memory"),
    ("deep copy", KeepsLambda, "still calls the original"),
    ("after an exception", LeavesHooks, "hooks are left behind"),
    ("after an exception", HalfWayState, "after an exception in encode, the values"),
    ("channels last", ViewsItsKernel, "view"),
    ("bf16 autocast", LosesDigits, "far from float32"),
    ("compiled", AsksForValues, "(?i)data-dependent|item"),
]


def failures(checks: list[Check], name: str) -> list[Check]:
    return [c for c in checks if c.name == name and c.status == "fail"]


@pytest.mark.parametrize(
    ("check", "cls", "says"), FUSIONS_THAT_BREAK, ids=lambda v: getattr(v, "__name__", None)
)
def test_each_fusion_check_can_fail(check: str, cls: type[Fusion], says: str) -> None:
    checks = check_fusion(cls, backbones=("test_vit",), losses={}, only={check})
    assert [c.subject for c in failures(checks, check)] == ["test_vit"]
    assert re.search(says, failures(checks, check)[0].detail)


@pytest.mark.parametrize("cls", [Gated, StartsClosed])
def test_good_fusions_pass(cls: type[Fusion]) -> None:
    assert_ok(check_fusion(cls, backbones=("test_vit",), only=set(FUSION_CHECKS) - {"compiled"}))


class CountsBatches(Gated):
    """A legitimate one: its gate opens with the batches that it has seen in training."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.register_buffer("seen", torch.zeros(()))

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        return image + torch.tanh(self.seen / 10) * super().fuse(image, meta)


def test_a_method_that_counts_its_batches_does_not_mix_samples() -> None:
    checks = check_fusion(CountsBatches, backbones=("test_vit",), losses={}, only={"batch mates"})
    assert_ok(checks)


class AttendsToOneKey(Gated):
    """The other mistake of public code: no check can call it wrong, but its author is told."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.attention = nn.MultiheadAttention(spec.width, 1, batch_first=True)

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        token = self.gate(meta)[:, None]
        return image + self.attention(image[:, None], token, token)[0][:, 0]


class AttendsByHand(Gated):
    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        token = self.gate(meta)[:, None]
        weights = torch.softmax(image[:, None] @ token.transpose(1, 2), dim=-1)
        return image + (weights @ token)[:, 0]


@pytest.mark.parametrize("cls", [AttendsToOneKey, AttendsByHand])
def test_attention_over_a_single_key_is_noted(cls: type[Fusion]) -> None:
    checks = check_fusion(cls, backbones=("test_vit",), losses={}, only={"batch mates"})
    (check,) = [c for c in checks if c.name == "batch mates"]
    assert check.status == "pass" and "the query has no influence" in check.detail


def test_every_fusion_check_has_a_plugin_that_fails_it() -> None:
    assert {check for check, *_ in FUSIONS_THAT_BREAK} == set(FUSION_CHECKS)


def test_a_failure_stops_nothing_and_a_crash_skips_what_says_nothing() -> None:
    class TwoFaults(IgnoresMetadata):
        def __init__(self, spec: Spec) -> None:
            super().__init__(spec)
            self.unused = nn.Linear(2, 2)

    only = {"shapes", "gradients", "metadata", "deep copy"}
    checks = check_fusion(TwoFaults, backbones=("test_vit", "test_mambaout"), losses={}, only=only)
    for backbone in ("test_vit", "test_mambaout"):
        status = {c.name: c.status for c in checks if c.subject == backbone}
        assert status == {
            "builds": "pass",
            "shapes": "pass",
            "gradients": "fail",
            "metadata": "fail",
            "deep copy": "pass",
        }
    checks = check_fusion(WrongShape, backbones=("test_vit",), only={"shapes", "metadata"})
    assert [(c.name, c.status) for c in checks[3:5]] == [("shapes", "fail"), ("metadata", "skip")]
    assert {c.status for c in checks[5:]} == {"skip"}


def test_a_crash_in_the_constructor_shows_where() -> None:
    class Crashes(Fusion):
        def __init__(self, spec: Spec) -> None:
            raise KeyError("no such thing")

    checks = check_fusion(Crashes, backbones=("test_vit",), losses={})
    (built,) = failures(checks, "builds")
    assert "KeyError: 'no such thing'" in built.detail
    assert "test_testing.py" in built.detail
    assert [c.name for c in checks] == ["settings", "forward", "builds"]


def test_refused_backbones_are_skipped_with_their_reason_but_one_must_be_accepted() -> None:
    class WideOnly(Gated):
        def __init__(self, spec: Spec) -> None:
            if spec.width < 100:
                raise FusionRefused(f"{spec.width} is too narrow.", "Take test_mambaout.")
            super().__init__(spec)

    on = ("test_vit", "test_mambaout")
    checks = check_fusion(WideOnly, backbones=on, losses={}, only={"shapes"})
    assert_ok(checks)
    assert checks[2] == Check("builds", "test_vit", "skip", "64 is too narrow. Take test_mambaout.")
    checks = check_fusion(WideOnly, backbones=on[:1], losses={}, only={"shapes"})
    assert [c.name for c in checks if c.status == "fail"] == ["accepted"]


def test_what_is_random_or_works_in_place_is_told_that_and_not_of_batch_mates() -> None:
    for cls, name in ((AlwaysDropsOut, "repeatable"), (AddsInPlace, "in place")):
        checks = check_fusion(cls, backbones=("test_vit",), losses={}, only={name, "batch mates"})
        assert [c.name for c in checks if c.status == "fail"] == [name]
        (mates,) = [c for c in checks if c.name == "batch mates"]
        assert (mates.status, mates.detail) == ("skip", f"It needs {name}: see there.")


def test_who_overrides_forward_is_told_to_use_fuse() -> None:
    checks = check_fusion(OverridesForward, backbones=(), losses={}, only=())
    (found,) = failures(checks, "forward")
    assert "overrides `forward`, which nothing calls" in found.detail
    assert "fuse(self, image, meta)" in found.detail


def test_sys_exit_is_a_failed_check() -> None:
    class Exits(Gated):
        def __init__(self, spec: Spec) -> None:
            raise SystemExit(0)

    (built,) = failures(check_fusion(Exits, backbones=("test_vit",), losses={}), "builds")
    assert built.detail == "The plugin checked on test_vit tries to end the process: SystemExit 0."


class Positional(Fusion):
    def __init__(self, spec: Spec, width: int = 3) -> None:
        super().__init__(spec)


class NoDefault(Fusion):
    def __init__(self, spec: Spec, *, width: int) -> None:
        super().__init__(spec)


class NoAnnotation(Fusion):
    def __init__(self, spec: Spec, *, width=3) -> None:  # type: ignore[no-untyped-def]
        super().__init__(spec)


class Misfit(Fusion):
    def __init__(self, spec: Spec, *, width: int = "wide") -> None:  # type: ignore[assignment]
        super().__init__(spec)


class Anything(Fusion):
    def __init__(self, spec: Spec, **options: int) -> None:
        super().__init__(spec)


class NoSpec(Fusion):
    def __init__(self, *, width: int = 3) -> None: ...


class UnknownLoss(Fusion):
    default_loss = "ce+unheard-of"


@pytest.mark.parametrize(
    ("cls", "says"),
    [
        (Positional, "keyword-only"),
        (NoDefault, "`width` has no default"),
        (NoAnnotation, "no type annotation"),
        (Misfit, "does not fit its annotation"),
        (Anything, "keyword-only"),
        (NoSpec, "`spec`"),
        (UnknownLoss, "'unheard-of'"),
    ],
)
def test_settings_must_be_a_schema(cls: type[Fusion], says: str) -> None:
    check = check_fusion(cls, backbones=())[0]
    assert (check.name, check.status) == ("settings", "fail")
    assert says in check.detail


class Agreement(Loss):
    """Keeps every contract: cross-entropy of the logits and of an auxiliary classifier."""

    def __init__(self, spec: Spec, *, weight: float = 0.5) -> None:
        super().__init__(spec)
        self.weight = weight
        self.aux = nn.Linear(spec.embedding, spec.classes)

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        aux = F.cross_entropy(self.aux(output.embedding).float(), target)
        return {"main": F.cross_entropy(output.logits.float(), target), "aux": self.weight * aux}


class ReturnsTensor(Agreement):
    def forward(self, output: Output, target: Tensor) -> Tensor:  # type: ignore[override]
        return F.cross_entropy(output.logits, target)


class ReturnsVector(Agreement):
    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(output.logits, target, reduction="none")}


class UnusedHead(Agreement):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.spare = nn.Linear(2, 2)


class TeachesNothing(Agreement):
    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        detached = Output(output.logits.detach(), output.embedding.detach(), output.stages)
        return super().forward(detached, target)


class NeedsOtherClasses(Agreement):
    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        apart = (output.embedding[:, None] - output.embedding[None]).abs().sum(-1)
        others = target[:, None] != target[None]
        return super().forward(output, target) | {"apart": -apart[others].mean()}


class NeedsPositives(Agreement):
    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        apart = (output.embedding[:, None] - output.embedding[None]).abs().sum(-1)
        same = (target[:, None] == target[None]) & ~torch.eye(len(target), dtype=torch.bool)
        return super().forward(output, target) | {"near": apart[same].mean()}


class TakesThirdSample(Agreement):
    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        return super().forward(output, target) | {"third": output.logits[2].pow(2).mean()}


class AssumesThreeClasses(Agreement):
    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        return super().forward(output, target) | {"melanoma": output.logits[:, 2].pow(2).mean()}


class Overflows(Agreement):
    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        odds = output.logits.exp()
        likely = odds.gather(1, target[:, None])[:, 0] / odds.sum(1)
        return super().forward(output, target) | {"nll": -likely.log().mean()}


class LosesDigitsToo(Agreement):
    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        offset = torch.tensor(1e3, dtype=output.logits.dtype)
        return {"main": F.cross_entropy((output.logits + offset) - offset, target)}


class FirstCountsMost(Agreement):
    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        rank = torch.arange(1, len(target) + 1)
        each = F.cross_entropy(output.logits, target, reduction="none")
        return {"ranked": (each / rank).mean()}


class GlobalAverage(Agreement):
    seen: ClassVar[list[float]] = []

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        terms = super().forward(output, target)
        self.seen.append(float(terms["main"].detach()))
        return {"main": terms["main"] * (1 + sum(self.seen))}


class LooseWeights(Agreement):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.weights = torch.ones(spec.classes)


class LeavesTheGraph(Agreement):
    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        return {n: v for n, v in super().forward(output, target).items() if float(v.detach()) > 0}


LOSSES_THAT_BREAK = [
    ("terms", ReturnsTensor, "not a dict"),
    ("terms", ReturnsVector, "not a scalar"),
    ("gradients", UnusedHead, "no gradient reaches spare"),
    ("gradients", TeachesNothing, "the model's output"),
    ("one class", NeedsOtherClasses, "apart"),
    ("each class once", NeedsPositives, "near"),
    ("batch of two", TakesThirdSample, "IndexError"),
    ("two classes", AssumesThreeClasses, "IndexError"),
    ("extreme values", Overflows, "nll"),
    ("bf16 autocast", LosesDigitsToo, "far from float32"),
    ("batch order", FirstCountsMost, "order of the batch"),
    ("repeatable", GlobalAverage, r"other values later \(main"),
    ("state dict", LooseWeights, "weights.*register_buffer"),
    ("compiled", LeavesTheGraph, "(?i)data-dependent|item"),
]


@pytest.mark.parametrize(
    ("check", "cls", "says"), LOSSES_THAT_BREAK, ids=lambda v: getattr(v, "__name__", None)
)
def test_each_loss_check_can_fail(check: str, cls: type[Loss], says: str) -> None:
    found = failures(check_loss(cls, backbones=(), only={check}), check)
    assert found
    assert re.search(says, found[0].detail)


def test_every_loss_check_has_a_plugin_that_fails_it() -> None:
    assert {check for check, *_ in LOSSES_THAT_BREAK} == set(LOSS_CHECKS)


def test_a_good_loss_passes() -> None:
    assert_ok(check_loss(Agreement, only=set(LOSS_CHECKS) - {"compiled"}))


def test_a_loss_is_also_tried_on_real_models() -> None:
    class OneWidth(Agreement):
        def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
            return {"stack": torch.stack([t.mean((0, 1)) for t in output.stages]).mean()}

    checks = check_loss(OneWidth, only=())
    assert {c.subject: c.status for c in checks if c.name == "model"} == {
        "test_efficientnet": "fail",
        "test_vit": "pass",
        "test_convnext": "fail",
        "test_mambaout": "fail",
    }


def test_assert_ok_lists_every_failure() -> None:
    checks = [
        Check("shapes", "test_vit", "pass"),
        Check("metadata", "test_vit", "fail", "ignored"),
        Check("loss", "test_vit + ce", "fail", "first\nsecond"),
    ]
    with pytest.raises(AssertionError) as caught:
        assert_ok(checks)
    assert str(caught.value).splitlines() == [
        "2 of 3 checks failed:",
        "  metadata [test_vit]: ignored",
        "  loss [test_vit + ce]: first",
        "      second",
    ]
    assert_ok(checks[:1])
    with pytest.raises(AssertionError, match="nothing was looked at"):
        assert_ok([Check("builds", "test_vit", "skip", "refused")])


def test_checks_leave_the_random_state_alone() -> None:
    torch.manual_seed(7)
    want = torch.rand(3)
    torch.manual_seed(7)
    python, legacy = random.getstate(), np.random.get_state()[1].tolist()
    check_fusion(Gated, backbones=("test_vit",), losses={}, only={"shapes", "repeatable"})
    assert torch.equal(torch.rand(3), want)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == (python, legacy)


def test_check_file_finds_the_kind_and_reports_a_broken_import(tmp_path: Path) -> None:
    good = tmp_path / "brighter.py"
    good.write_text(
        '"""Brighter."""\n'
        "from fusionbench.plugin.loss import Loss\n"
        "class Brighter(Loss):\n"
        "    def forward(self, output, target):\n"
        '        return {"mean": output.logits.mean()}\n'
    )
    kind, cls = load_file(good)
    assert (kind, cls.__name__) == ("losses", "Brighter")
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import no_such_package\nfrom fusionbench import Fusion\nclass A(Fusion): ...\n"
    )
    (check,) = check_file(broken)
    assert (check.name, check.status) == ("loads", "fail")
    assert "no_such_package" in check.detail
    typo = tmp_path / "typo.py"
    typo.write_text("class A(Fusion:\n")
    (check,) = check_file(typo)
    assert check.status == "fail"
    assert "SyntaxError" in check.detail


def test_check_file_refuses_what_is_no_plugin(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("hello")
    for path in (tmp_path / "absent.py", tmp_path, notes):
        with pytest.raises(UsageError):
            check_file(path)
