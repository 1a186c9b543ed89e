"""Image only: the backbone's own features, no metadata."""

from fusionbench.plugin.fusion import Fusion


class ImageOnly(Fusion):
    uses_metadata = False
