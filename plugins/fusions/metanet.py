"""MetaNet: metadata gates the image features channel by channel.

W. Li, J. Zhuang, R. Wang, J. Zhang, W.-S. Zheng, "Fusing metadata and dermoscopy images for skin
disease diagnosis", ISBI 2020, https://doi.org/10.1109/ISBI45749.2020.9098645. The reference mode
has the sizes of the MetaBlock authors' comparison (https://github.com/paaatcha/MetaBlock).
"""

from typing import Literal

from torch import Tensor, nn

from fusionbench.plugin.fusion import Fusion, FusionRefused, Spec, reducer

SIDE = 8  # the pooled features are viewed as (B, C, 8, 8)


class MetaNet(Fusion):
    """gate = sigmoid(W2 relu(W1 meta)), times the features.

    mode "reference": D pooled features viewed as (B, D/64, 8, 8), one gate per channel of the view.
    mode "map": one gate per channel of the last tapped feature map.
    reduce: width of the authors' reducer after the gate; 0 leaves it out.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        mode: Literal["reference", "map"] = "reference",
        hidden: int = 64,
        reduce: int = 0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(spec)
        self.mode = mode
        if mode == "reference" and spec.width % SIDE**2:
            near = max(spec.width // SIDE**2, 1) * SIDE**2
            raise FusionRefused(
                f"metanet views the pooled features as (C, {SIDE}, {SIDE}); a width of "
                f"{spec.width} is no multiple of {SIDE**2}.",
                f"Take a backbone of width {near}, {near + SIDE**2}, … or --set fusion.mode=map.",
            )
        channels = spec.width // SIDE**2 if mode == "reference" else spec.stages[-1].channels
        self.gate = nn.Sequential(
            nn.Linear(spec.metadata, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )
        self.reduce = reducer(spec.width, reduce, dropout) if reduce else nn.Identity()

    def stage(self, k: int, tokens: Tensor, meta: Tensor) -> Tensor:
        if self.mode == "map" and k == len(self.spec.stages) - 1:
            return tokens * self.gate(meta)[:, None, :]
        return tokens

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        if self.mode == "reference":
            gate = self.gate(meta)  # (B, D/64), each for 64 consecutive features
            image = (image.unflatten(1, (-1, SIDE**2)) * gate[:, :, None]).flatten(1)
        return self.reduce(image)
