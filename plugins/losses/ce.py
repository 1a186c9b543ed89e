"""Cross-entropy, optionally with class weights and label smoothing."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from fusionbench.plugin.fusion import Spec
from fusionbench.plugin.loss import Loss, Output, balanced_weights


class CrossEntropy(Loss):
    """class_weights "balanced": fusionbench.plugin.loss.balanced_weights of the training rows.

    The weighted mean divides by the sum of the weights in the batch, as PyTorch does.
    """

    weights: Tensor | None

    def __init__(
        self,
        spec: Spec,
        *,
        class_weights: Literal["none", "balanced"] = "none",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(spec)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} is outside 0 <= value < 1")
        weights = None
        if class_weights == "balanced":
            weights = balanced_weights(spec)
        self.register_buffer("weights", weights)
        self.label_smoothing = label_smoothing

    def forward(self, output: Output, target: Tensor) -> dict[str, Tensor]:
        loss = F.cross_entropy(
            output.logits.float(),
            target,
            weight=self.weights,
            label_smoothing=self.label_smoothing,
        )
        return {"ce": loss}
