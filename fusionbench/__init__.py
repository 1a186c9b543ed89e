"""fusionbench: image + patient-metadata fusion for skin-lesion classification, compared fairly."""

__version__ = "0.1.0"
