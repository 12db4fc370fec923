"""Semantic segmentation: heads on feature maps, loss per pixel, windows and scales, mean intersection over union."""
