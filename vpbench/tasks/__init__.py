"""Tasks: what a target is, which head reads which features, the loss, and the metric."""
