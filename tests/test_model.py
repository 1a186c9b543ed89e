"""Backbone + fusion + head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fusionbench.errors import PluginError
from fusionbench.models.backbones import build_backbone
from fusionbench.models.fusion_model import FusionModel
from fusionbench.plugin.fusion import Fusion, Spec, Stage


class Recorder(Fusion):
    """Appends two columns of metadata to the features and counts its calls."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.calls: list[str] = []

    def encode(self, meta: Tensor) -> Tensor:
        self.calls.append("encode")
        return meta[:, :2] + 1

    def stage(self, k: int, tokens: Tensor, meta: Tensor) -> Tensor:
        self.calls.append(f"stage {k}")
        assert meta.shape[1] == 2
        return tokens + k

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        self.calls.append("fuse")
        return torch.cat([image, meta], dim=1)


def spec_on(name: str) -> tuple[object, Spec]:
    backbone = build_backbone(name, 64)
    return backbone, Spec(backbone.stages, backbone.width, metadata=5, classes=3)


def test_encode_runs_once_stages_in_order_and_fuse_last() -> None:
    backbone, spec = spec_on("test_vit")
    model = FusionModel(backbone, Recorder(spec)).eval()
    model.fusion.calls.clear()
    image, meta = torch.randn(2, 3, 64, 64), torch.randn(2, 5)
    output = model(image, meta)
    assert model.fusion.calls == ["encode", "stage 0", "stage 1", "stage 2", "stage 3", "fuse"]
    assert model.spec.embedding == spec.width + 2
    assert output.embedding.shape == (2, spec.width + 2)
    assert torch.equal(output.embedding[:, -2:], meta[:, :2] + 1)
    assert torch.equal(output.logits, model.head(output.embedding))
    assert len(output.stages) == 4


def test_output_stages_are_the_fused_ones() -> None:
    backbone, spec = spec_on("test_vit")
    model = FusionModel(backbone, Recorder(spec)).eval()
    image, meta = torch.randn(2, 3, 64, 64), torch.randn(2, 5)
    before: list[Tensor] = []
    original = model.fusion.stage
    model.fusion.stage = lambda k, t, m: before.append(t) or original(k, t, m)
    stages = model(image, meta).stages
    for k, (tokens, fused) in enumerate(zip(before, stages, strict=True)):
        assert torch.equal(fused, tokens + k)


def test_the_base_class_is_the_backbone_with_a_linear_head() -> None:
    backbone, spec = spec_on("test_mambaout")
    model = FusionModel(backbone, Fusion(spec)).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        output = model(image, torch.randn(2, 5))
        features = backbone.net(image)
    assert torch.equal(output.embedding, features)
    assert (
        sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in backbone.parameters())
        == (spec.width + 1) * 3
    )


def test_measuring_the_width_teaches_nothing() -> None:
    class Normed(Fusion):
        def __init__(self, spec: Spec) -> None:
            super().__init__(spec)
            self.norm = torch.nn.BatchNorm1d(spec.width)

        def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
            return self.norm(image)

    backbone, spec = spec_on("test_vit")
    model = FusionModel(backbone, Normed(spec))
    assert int(model.fusion.norm.num_batches_tracked) == 0
    assert model.fusion.training


@pytest.mark.parametrize("shape", [(2,), (2, 3, 4), (1, 64)])
def test_a_fuse_that_returns_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    class Wrong(Fusion):
        def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
            return torch.zeros(shape)

    backbone, spec = spec_on("test_vit")
    with pytest.raises(PluginError, match=r"Wrong\.fuse returned shape"):
        FusionModel(backbone, Wrong(spec))


def test_maps_and_tokens_are_two_views_of_the_same_numbers() -> None:
    spec = Spec(stages=(Stage(5, (3, 4)), Stage(6, (2, 2))), width=6, metadata=1, classes=2)
    tokens = torch.arange(2 * 12 * 5).reshape(2, 12, 5)
    map_ = spec.to_map(0, tokens)
    assert map_.shape == (2, 5, 3, 4)
    for row in range(3):
        for column in range(4):
            assert torch.equal(map_[:, :, row, column], tokens[:, 4 * row + column])
    assert torch.equal(spec.to_tokens(0, map_), tokens)
    # Free in channels-last memory: no copy either way.
    assert map_.data_ptr() == tokens.data_ptr()
    assert spec.to_tokens(0, map_).data_ptr() == tokens.data_ptr()
    assert map_.is_contiguous(memory_format=torch.channels_last)
