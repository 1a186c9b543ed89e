"""The reference modes have the sizes of the MetaBlock authors' models, backbone by backbone.

Read off https://github.com/paaatcha/MetaBlock: MetaBlock views the pooled features as (maps, 32),
MetaNet as (maps, 8, 8) with a middle layer of 64 units; the reducer is Linear(256)-BatchNorm. Two
defaults there do not run and are taken as their shapes require: 32 maps of MetaBlock for
EfficientNet-B4's 1,792 features, 32 gates of MetaNet (middle layer 40) for MobileNetV2's 20 maps.
"""

from __future__ import annotations

import pytest

from fusionbench.plugin import registry
from fusionbench.plugin.fusion import Fusion, Spec, Stage

METADATA = 81  # columns of their PAD-UFES-20 encoding
# backbone -> (pooled width, MetaBlock's maps, MetaNet's maps)
MODELS = {
    "densenet121": (1024, 32, 16),
    "mobilenetv2_100": (1280, 40, 20),
    "efficientnet_b4": (1792, 56, 28),
    "resnet50": (2048, 64, 32),
    "vgg16_bn, unpooled": (25088, 784, 392),
}


def parameters(fusion: str, width: int, **options: object) -> int:
    spec = Spec(stages=(Stage(8, (7, 7)),), width=width, metadata=METADATA, classes=6)
    plugin = registry.load(registry.find("fusions", fusion), Fusion)
    return sum(p.numel() for p in plugin(spec, **options).parameters())


@pytest.mark.parametrize(("width", "maps", "gates"), MODELS.values(), ids=MODELS)
def test_the_published_sizes(width: int, maps: int, gates: int) -> None:
    assert parameters("metablock", width) == 2 * (METADATA * maps + maps + 2 * maps)
    assert parameters("metanet", width) == METADATA * 64 + 64 + 64 * gates + gates
    reducer = width * 256 + 256 + 2 * 256
    assert parameters("concat", width) == reducer
    for fusion in ("metablock", "metanet"):
        assert parameters(fusion, width, reduce=256) == parameters(fusion, width) + reducer
