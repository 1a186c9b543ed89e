"""FiLM: metadata scales and shifts every channel after a stage.

E. Perez, F. Strub, H. de Vries, V. Dumoulin, A. Courville, "FiLM: visual reasoning with a general
conditioning layer", AAAI 2018, https://arxiv.org/abs/1709.07871
"""

from torch import Tensor, nn

from fusionbench.plugin.fusion import Fusion, Spec, chosen_stages


class FiLM(Fusion):
    """X' = (1 + dgamma(m)) X + beta(m) per channel. The generator is linear, and zero at first.

    stages: after which stages, counted from 1; empty: all (ours: the paper conditions the blocks of
    its own network).
    """

    def __init__(self, spec: Spec, *, stages: tuple[int, ...] = ()) -> None:
        super().__init__(spec)
        self.generators = nn.ModuleDict()
        for k in chosen_stages(spec, stages):
            generator = nn.Linear(spec.metadata, 2 * spec.stages[k].channels)
            nn.init.zeros_(generator.weight)
            nn.init.zeros_(generator.bias)
            self.generators[str(k)] = generator

    def stage(self, k: int, tokens: Tensor, meta: Tensor) -> Tensor:
        if str(k) not in self.generators:
            return tokens
        scale, shift = self.generators[str(k)](meta)[:, None, :].chunk(2, dim=2)
        return tokens * (1 + scale) + shift
