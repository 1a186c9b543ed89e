"""What a plugin may say to the network that it is built into, and to its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from fusionbench.config.run_config import Execution, RunConfig, TrainingSettings
from fusionbench.data.card import Column
from fusionbench.data.encoder import MetadataEncoder
from fusionbench.errors import UsageError
from fusionbench.models.backbones import build_backbone
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Features, Fused, Fusion, Spec
from fusionbench.plugin.loss import CombinedLoss, Loss, Output
from fusionbench.records import Store
from fusionbench.runs.network_study import setup
from fusionbench.runs.run import run
from fusionbench.runs.study import Opened
from fusionbench.training.optimizers import make_optimizer, make_scheduler, parameter_groups

SIZE, METADATA, CLASSES = 64, 5, 3


def built(fusion: type[Fusion] | str, backbone: str = "test_vit", **params: object) -> FusionModel:
    torch.manual_seed(0)
    net = build_backbone(backbone, SIZE)
    if isinstance(fusion, str):
        fusion = registry.load(registry.find("fusions", fusion), Fusion)
    return FusionModel(net, fusion(Spec(net.stages, net.width, METADATA, CLASSES), **params)).eval()


def batch(n: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(n, 3, SIZE, SIZE, generator=generator)
    return image, torch.randn(n, METADATA, generator=generator)


def test_metadata_that_a_stage_hands_on_reaches_the_next_stages_and_fuse() -> None:
    class Counts(Fusion):
        def stage(self, k: int, tokens: Tensor, meta: Tensor) -> tuple[Tensor, Tensor]:
            return tokens, torch.cat([meta, torch.full_like(meta[:, :1], k)], dim=1)

        def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
            return meta

    model, (image, meta) = built(Counts), batch()
    output = model(image, meta)
    stages = range(len(model.spec.stages))
    assert model.spec.embedding == METADATA + len(stages)
    assert torch.equal(output.embedding[:, :METADATA], meta)
    assert output.embedding[0, METADATA:].tolist() == [float(k) for k in stages]
    assert torch.equal(output.meta, meta)


@pytest.mark.parametrize("backbone", ["test_vit", "test_resnet", "test_mambaout"])
def test_fuse_sees_the_last_stage_and_the_tokens_beside_it(backbone: str) -> None:
    seen: list[Features] = []

    class Looks(Fusion):
        uses_metadata = False

        def fuse_stages(self, features: Features, meta: Tensor) -> Tensor:
            seen.append(features)
            return features.image

    model, (image, meta) = built(Looks, backbone), batch()
    raw: list[Tensor] = []
    tap = model.backbone.net.get_submodule(model.backbone.taps[-1])
    tap.register_forward_hook(lambda _m, _a, out: raw.append(out))
    output = model(image, meta)
    features = seen[-1]
    assert torch.equal(features.image, output.embedding)
    assert features.stages[-1] is output.stages[-1]
    if backbone == "test_vit":
        joined = torch.cat([features.prefix, features.stages[-1]], dim=1)
        assert features.prefix.shape[1] == model.backbone.net.num_prefix_tokens > 0
        assert torch.equal(joined, raw[0])
    else:
        assert features.prefix.shape[1] == 0


class Heads(Fusion):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.of_meta = nn.Linear(spec.metadata, spec.classes)

    def fuse(self, image: Tensor, meta: Tensor) -> Fused:
        return Fused(image, {"meta": self.of_meta(meta)}, {"meta": meta})


def test_further_heads_are_trained_alike_and_averaged_in_evaluation() -> None:
    class Reads(Loss):
        reads_logits = False
        calls = 0

        def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
            Reads.calls += 1
            return {"reads": output.extras["meta"].mean() + output.embedding.sum() * 0}

    model, (image, meta) = built(Heads), batch()
    target = torch.tensor([0, 1, 2, 0])
    evaluated = model(image, meta)
    own = model.head(evaluated.embedding)
    torch.testing.assert_close(evaluated.logits, (own + model.fusion.of_meta(meta)) / 2)
    assert not evaluated.heads
    trained = model.train()(image, meta)
    assert set(trained.heads) == {"meta"}
    ce = registry.load(registry.find("losses", "ce"), Loss)
    terms = CombinedLoss({"ce": ce(model.spec), "reads": Reads(model.spec)})(trained, target)
    each = [F.cross_entropy(x, target) for x in (trained.logits, trained.heads["meta"])]
    torch.testing.assert_close(terms["ce"], torch.stack(each).mean())
    torch.testing.assert_close(terms["reads"], meta.mean())
    assert Reads.calls == 1


def test_an_own_head_stands_behind_the_reducer() -> None:
    class Prototypes(Fusion):
        uses_metadata = False

        def head(self, width: int) -> nn.Module:
            return Cosine(width)

    class Cosine(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.prototypes = nn.Parameter(torch.randn(CLASSES, width))

        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(x) @ F.normalize(self.prototypes).t()

    net = build_backbone("test_vit", SIZE)
    fusion = Prototypes(Spec(net.stages, net.width, METADATA, CLASSES))
    model = FusionModel(net, fusion, 16).eval()
    output = model(*batch())
    assert model.head.prototypes.shape == (CLASSES, 16)
    assert float(output.logits.detach().abs().max()) <= 1 + 1e-6


PLUGIN = '''"""Keeps the mean of the training rows, and puts out what was recorded."""

import torch
from torch import Tensor, nn

from fusionbench.plugin.fusion import Fusion, Spec


class Fitted(Fusion):
    takes_recorded = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.register_buffer("mean", torch.zeros(spec.metadata))
        self.register_buffer("rows", torch.zeros(()))
        self.layer = nn.Linear(spec.metadata, spec.width)

    def fit(self, meta: Tensor) -> None:
        self.mean.copy_(meta.mean(0))
        self.rows.fill_(len(meta))

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        return image + self.layer(meta - self.mean)
'''


def test_fit_sees_the_training_rows_of_each_fold_and_nothing_else(
    tmp_path: Path, quick: RunConfig, here: Execution
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "fitted.py").write_text(PLUGIN)
    config = quick.changed(fusion="fitted", epochs=1)
    execution = replace(here, plugins=(folder,), save_weights=True, folds=(0, 1))
    records = run(config, execution).records
    study = setup(config, Opened(execution))
    store, means = Store(execution.store), []
    for record in records:
        fold = next(f for f in study.protocol.folds if f.index == record.identity.fold)
        rows = study.rows(fold)
        encoder = study.encoder(study.metadata(fold, rows), rows.train)
        assert encoder.feature_names[-1].endswith(":recorded")
        want = encoder.transform(study.table.metadata.iloc[rows.train]).mean(0)
        saved = load_file(store.path("weights", record.run_id))
        np.testing.assert_allclose(saved["fusion.mean"].numpy(), want, atol=1e-6)
        assert int(saved["fusion.rows"]) == len(rows.train)
        means.append(saved["fusion.mean"])
    assert len(means) == 2 and not torch.equal(*means)


def test_columns_say_which_features_they_own_and_what_was_recorded() -> None:
    columns = [Column(name="age", kind="numeric"), Column(name="site", kind="categorical")]
    frame = pd.DataFrame({"age": [40.0, None, 60.0], "site": ["arm", "leg", None]})
    for missing, flags in (
        ("zero", [[1, 1], [0, 1], [1, 0]]),
        ("impute", [[1, 1], [0, 1], [1, 0]]),
    ):
        encoder = MetadataEncoder(columns, missing=missing, recorded=True).fit(frame)
        age, site = encoder.described
        assert (age.name, age.kind, age.features, age.values) == ("age", "numeric", (0,), ())
        assert (site.features, site.values) == ((1, 2), ("arm", "leg"))
        features = encoder.transform(frame)
        assert features[:, [age.recorded, site.recorded]].tolist() == flags
        assert encoder.blank()[[age.recorded, site.recorded]].tolist() == [0, 0]
        assert encoder.sources.tolist() == [0, 1, 1, 0, 1]
    encoder = MetadataEncoder(columns, missing="indicator").fit(frame)
    assert [(c.missing, c.recorded) for c in encoder.described] == [(1, None), (4, None)]


def decayed(model: nn.Module, settings: TrainingSettings) -> set[str]:
    ids = {
        id(p)
        for group in parameter_groups(model, settings)
        for p in group["params"]
        if group["weight_decay"]
    }
    return {name for name, p in model.named_parameters() if id(p) in ids}


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch16_224", "test_convnext"])
def test_what_timm_does_not_decay_is_not_decayed(name: str) -> None:
    net = build_backbone(name, 224 if name.startswith("vit") else SIZE)
    model = FusionModel(net, Fusion(Spec(net.stages, net.width, METADATA, CLASSES)))
    settings = TrainingSettings(weight_decay=0.1)
    groups = timm.optim.param_groups_weight_decay(
        net.net, 0.1, no_weight_decay_list=getattr(net.net, "no_weight_decay", set)()
    )
    ids = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    want = {f"backbone.net.{n}" for n, p in net.net.named_parameters() if id(p) in ids}
    got = decayed(model, settings)
    assert got == want | {"head.weight"}
    if "vit" in name:
        assert not {n for n in got if "cls_token" in n or "pos_embed" in n}


def test_learning_rates_by_part_follow_the_schedule() -> None:
    class Slow(Fusion):
        def __init__(self, spec: Spec) -> None:
            super().__init__(spec)
            self.layer = nn.Linear(spec.metadata, spec.width)

        def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
            return image + self.layer(meta)

        def parameter_groups(self) -> list[dict[str, Any]]:
            return [{"params": [self.layer.weight], "lr_scale": 0.5, "weight_decay": 0.0}]

    model = built(Slow)
    settings = TrainingSettings(
        lr=0.01, backbone_lr=0.001, layer_decay=0.5, schedule="cosine", warmup_epochs=0, epochs=4
    )
    for schedule in ("cosine", "none", "plateau"):
        settings = settings.model_copy(update={"schedule": schedule})
        optimizer = make_optimizer(model, settings, {})
        make_scheduler(optimizer, settings, 10, {})
        rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        named = {name: rate[id(p)] for name, p in model.named_parameters()}
        assert set(named) == {name for name, _ in model.named_parameters()}  # each once
        assert named["head.weight"] == pytest.approx(0.01)
        assert named["fusion.layer.weight"] == pytest.approx(0.005)
        assert named["fusion.layer.bias"] == pytest.approx(0.01)
        depth = len(model.backbone.net.blocks)
        last = named[f"backbone.net.blocks.{depth - 1}.mlp.fc1.weight"]
        before = named[f"backbone.net.blocks.{depth - 2}.mlp.fc1.weight"]
        assert before == pytest.approx(last / 2) and last <= 0.001
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
def test_frozen_stages_keep_weights_and_statistics(backbone: str) -> None:
    net = build_backbone(backbone, SIZE)
    net.freeze("stages:2")
    moving = {n for n, p in net.net.named_parameters() if p.requires_grad}
    inside = list(net.taps[:2])
    assert moving and not any(n.startswith(f"{t}.") for n in moving for t in inside)
    assert any(n.startswith(f"{net.taps[2]}.") for n in moving)
    before = {k: v.clone() for k, v in net.net.state_dict().items()}
    net.train()
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    net(batch()[0], lambda k, t: t).image.sum().backward()
    optimizer.step()
    after = net.net.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed and not any(k.startswith(f"{t}.") for k in changed for t in inside)
    net.freeze("backbone")
    assert not any(p.requires_grad for p in net.net.parameters())
    assert not net.train().net.training
    with pytest.raises(UsageError, match="stages 1 to"):
        net.freeze("stages:9")


def test_a_frozen_backbone_trains_the_rest(quick: RunConfig, here: Execution) -> None:
    config = quick.changed(epochs=1, freeze="backbone", fusion="concat", backbone_lr=0.001)
    (record, *_) = run(config, replace(here, save_weights=True)).records
    study = setup(config, Opened(here))
    torch.manual_seed(study.fold_seed(study.protocol.folds[0]))
    fresh = study.backbone().state_dict()
    saved = load_file(Store(here.store).path("weights", record.run_id))
    assert record.identity.training.freeze == "backbone"
    for name, value in fresh.items():
        assert torch.equal(saved[f"backbone.{name}"], value), name


def test_ogm_ge_runs_on_every_path(quick: RunConfig, here: Execution) -> None:
    metrics = []
    for step in ("eager", "compiled"):
        execution = replace(here, step=step, store=here.store / step, folds=(0,))
        (record,) = run(quick.changed(fusion="ogm-ge", epochs=1), execution).records
        assert record.identity.method.losses[0].name == "ogm-ge"
        metrics.append(record.result.metrics["nll"])
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-3)


def test_periodic_numbers_against_their_formula() -> None:
    from fusionbench.models.metadata import FREQUENCIES, WIDTH, Periodic
    from fusionbench.plugin.columns import MetadataColumn

    torch.manual_seed(0)
    columns = (
        MetadataColumn("site", "categorical", (0, 1), ("a", "b"), missing=2),
        MetadataColumn("age", "numeric", (3,), recorded=5),
        MetadataColumn("size", "numeric", (4,), recorded=6),
    )
    spec = Spec((), 8, 7, CLASSES, columns=columns)
    layer = Periodic(spec).double()
    with torch.no_grad():
        layer.frequencies.normal_()
    meta = torch.randn(3, 7, dtype=torch.float64)
    got = layer(meta).detach()
    layer.requires_grad_(False)
    for b in range(3):
        want: list[float] = []
        for j, at in enumerate((3, 4)):
            waves = [f(2 * np.pi * float(c) * float(meta[b, at])) for f in (np.cos, np.sin)
                     for c in layer.frequencies[j]]  # fmt: skip
            for w in range(WIDTH):
                inner = sum(x * float(layer.weight[j, i, w]) for i, x in enumerate(waves)) + float(
                    layer.bias[j, w]
                )
                want.append(max(inner, 0.0))
        assert len(waves) == 2 * FREQUENCIES
        want += [float(meta[b, i]) for i in (0, 1, 2, 5, 6)]
        np.testing.assert_allclose(got[b].numpy(), want, atol=1e-9)
    site, age, size = layer.spec(spec).columns
    start = 2 * WIDTH
    assert (site.features, site.missing) == ((start, start + 1), start + 2)
    assert (age.features[0], age.recorded, size.features[-1], size.recorded) == (
        0, start + 3, start - 1, start + 4,
    )  # fmt: skip
    assert layer.spec(spec).metadata == got.shape[1]


@pytest.mark.parametrize("encoding", ["ple", "periodic", "tokens"])
def test_each_encoding_runs_under_a_method_of_each_kind(
    encoding: str, quick: RunConfig, here: Execution
) -> None:
    records = []
    for fusion in ("sgmc", "metablock", "cross-attention"):
        config = quick.changed(epochs=1, fusion=fusion, encoding=encoding)
        execution = replace(here, folds=(0,), save_weights=True)
        if encoding == "tokens" and fusion == "cross-attention":
            with pytest.raises(UsageError, match="makes tokens of the columns itself"):
                run(config, execution)
            continue
        records += run(config, execution).records
    for record in records:
        assert record.result is not None and record.identity.data.encoding == encoding
        saved = load_file(Store(here.store).path("weights", record.run_id))
        assert any(k.startswith("metadata.") for k in saved) == (encoding != "ple")
    control = quick.changed(fusion="metadata-logistic", encoding=encoding)
    if encoding == "ple":
        assert run(control, replace(here, folds=(0,))).records
    else:
        with pytest.raises(UsageError, match="learned with a network"):
            run(control, here)
