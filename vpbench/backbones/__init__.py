"""Frozen backbones: named ones, weights from files and the hub, and one adapter per family over unmodified timm."""
