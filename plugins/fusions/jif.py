"""Joint and individual heads: one on the fusion, one on each modality alone.

Heads on image, metadata and both, each trained, and averaged when a lesion is diagnosed. The name
follows the field's use (JIF); the joint head is a concatenation, which is ours.
"""

import torch
from torch import Tensor, nn

from fusionbench.plugin.fusion import Fused, Fusion, Spec, reducer


class JIF(Fusion):
    """Embedding [reducer(v), MLP(m)]; further heads: Linear(reducer(v)), Linear(MLP(m)).

    In evaluation the probabilities of the three heads are averaged. hidden: width of both parts.
    """

    def __init__(self, spec: Spec, *, hidden: int = 256, dropout: float = 0.5) -> None:
        super().__init__(spec)
        self.image = reducer(spec.width, hidden, dropout)
        self.metadata = reducer(spec.metadata, hidden, dropout)
        self.image_head = nn.Linear(hidden, spec.classes)
        self.metadata_head = nn.Linear(hidden, spec.classes)

    def fuse(self, image: Tensor, meta: Tensor) -> Fused:
        v, m = self.image(image), self.metadata(meta)
        heads = {"image": self.image_head(v), "metadata": self.metadata_head(m)}
        return Fused(torch.cat([v, m], dim=1), heads)

    def combine(self, logits: Tensor) -> Tensor:
        return torch.log_softmax(logits, dim=2).logsumexp(0)
