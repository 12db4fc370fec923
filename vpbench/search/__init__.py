"""Searching settings: spaces as data, a grid or Optuna's TPE, every trial an ordinary run on validation images."""
