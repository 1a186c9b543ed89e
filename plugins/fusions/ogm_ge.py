"""OGM-GE: concatenation whose stronger modality learns more slowly.

X. Peng, Y. Wei, A. Deng, D. Wang, D. Hu, "Balanced multimodal learning via on-the-fly gradient
modulation", CVPR 2022, https://arxiv.org/abs/2203.15332. The modulation is the loss `ogm-ge`.
"""

from torch import Tensor, nn

from fusionbench.plugin.fusion import Fused, Fusion, Spec


class OGMGE(Fusion):
    """Logits W_v v + W_m u(m) + b, u(m) = relu(Linear(m)): a linear layer on [v, u(m)], split.

    Extras, for the loss: the features v and u, and their shares of the logits, each with b / 2.
    hidden: width of u (ours).
    """

    default_loss = "ogm-ge"

    def __init__(self, spec: Spec, *, hidden: int = 64) -> None:
        super().__init__(spec)
        self.metadata = nn.Sequential(nn.Linear(spec.metadata, hidden), nn.ReLU())
        self.of_image = nn.Linear(spec.width, spec.classes)
        self.of_metadata = nn.Linear(hidden, spec.classes, bias=False)

    def fuse(self, image: Tensor, meta: Tensor) -> Fused:
        u, half = self.metadata(meta), self.of_image.bias / 2
        shares = self.of_image(image) - half, self.of_metadata(u) + half
        return Fused(
            shares[0] + shares[1],
            extras={
                "image": image, "metadata": u,
                "image logits": shares[0].detach(), "metadata logits": shares[1].detach(),
            },
        )  # fmt: skip

    def head(self, width: int) -> nn.Module:
        return nn.Identity()
