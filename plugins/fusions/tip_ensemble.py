"""TIP's ensemble: the mean of the logits of an image, a table and a joint head.

The fine-tuned classifier of S. Du, S. Zheng, Y. Wang, W. Bai, D. P. O'Regan, C. Qin, "TIP:
tabular-image pre-training for multimodal classification with incomplete data", ECCV 2024,
https://arxiv.org/abs/2407.07582. Without its pre-training; the joint features are a
cross-attention of the table's tokens over the image's, two blocks, with our sizes.
"""

from torch import Tensor, nn

from fusionbench.plugin.fusion import Features, Fused, Fusion, Spec
from fusionbench.plugin.tokens import ColumnTokens, CrossAttention


class TIPEnsemble(Fusion):
    """Tokens T of the table attend to themselves, then to the image's tokens X; heads on v, on the
    table's CLS and on the joint CLS; in evaluation the mean of the three logits.

    width, heads: of tokens and attention. blocks: of self- and cross-attention.
    """

    takes_recorded = True

    def __init__(self, spec: Spec, *, width: int = 128, heads: int = 8, blocks: int = 2) -> None:
        super().__init__(spec)
        channels = spec.stages[-1].channels
        self.tokens = ColumnTokens(spec, width)
        self.table = nn.ModuleList(_Residual(width, width, heads) for _ in range(blocks))
        self.joint = nn.ModuleList(_Residual(width, channels, heads) for _ in range(blocks))
        self.image_head = nn.Linear(spec.width, spec.classes)
        self.table_head = nn.Linear(width, spec.classes)

    def fuse_stages(self, features: Features, meta: Tensor) -> Fused:
        table, counts = self.tokens(meta)
        for block in self.table:
            table = block(table, table, counts)
        joint = table
        for block in self.joint:
            joint = block(joint, features.stages[-1])
        heads = {"image": self.image_head(features.image), "table": self.table_head(table[:, 0])}
        return Fused(joint[:, 0], heads)


class _Residual(nn.Module):
    """x + MHA(LN x, keys, keys), then x + MLP(LN x)."""

    def __init__(self, width: int, keys: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CrossAttention(width, keys, width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor, keys: Tensor, counts: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), keys, counts)
        return x + self.mlp(self.norm2(x))
