"""Networks: timm backbones with taps, starting weights, and the model that a fusion makes."""
