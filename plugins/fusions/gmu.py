"""GMU: a gate chooses, unit by unit, between image and metadata.

J. Arevalo, T. Solorio, M. Montes-y-Gómez, F. A. González, "Gated multimodal units for information
fusion", ICLR 2017 workshop, https://arxiv.org/abs/1702.01992
"""

import torch
from torch import Tensor, nn

from fusionbench.plugin.fusion import Fusion, Spec


class GMU(Fusion):
    """h_v = tanh(W_v v), h_m = tanh(W_m m), z = sigmoid(W_z [v, m]), h = z h_v + (1 - z) h_m.

    hidden: width of h (ours). gate_on_projections: W_z sees W_v v and W_m m, as in the authors'
    code, instead of v and m, as in the paper.
    """

    def __init__(self, spec: Spec, *, hidden: int = 256, gate_on_projections: bool = False) -> None:
        super().__init__(spec)
        self.on_projections = gate_on_projections
        self.image = nn.Linear(spec.width, hidden, bias=False)
        self.metadata = nn.Linear(spec.metadata, hidden, bias=False)
        inputs = 2 * hidden if gate_on_projections else spec.width + spec.metadata
        self.gate = nn.Linear(inputs, hidden, bias=False)

    def fuse(self, image: Tensor, meta: Tensor) -> Tensor:
        v, m = self.image(image), self.metadata(meta)
        inputs = (v, m) if self.on_projections else (image, meta)
        z = torch.sigmoid(self.gate(torch.cat(inputs, dim=1)))
        return z * torch.tanh(v) + (1 - z) * torch.tanh(m)
