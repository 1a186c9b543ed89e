"""Channel-wise multiplication by a chain of metadata layers, one per stage.

H. Duanmu, P. B. Huang, S. Brahmavar, et al., "Prediction of pathological complete response to
neoadjuvant chemotherapy in breast cancer using deep learning with integrative imaging, molecular
and demographic data", MICCAI 2020, https://doi.org/10.1007/978-3-030-59713-9_24
"""

from itertools import pairwise

from torch import Tensor, nn

from fusionbench.plugin.fusion import Fusion, Spec


class Mul(Fusion):
    """m_k = BatchNorm(relu(Linear(m_{k-1}))), as wide as the stage; X_k' = X_k m_k."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        widths = [spec.metadata, *(s.channels for s in spec.stages)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.BatchNorm1d(after))
            for before, after in pairwise(widths)
        )

    def stage(self, k: int, tokens: Tensor, meta: Tensor) -> tuple[Tensor, Tensor]:
        meta = self.layers[k](meta)
        return tokens * meta[:, None, :], meta
