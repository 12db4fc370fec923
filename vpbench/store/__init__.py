"""The results folder: one parquet file per run."""
