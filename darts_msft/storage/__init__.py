"""Files: pretrained weights, and adapters."""
