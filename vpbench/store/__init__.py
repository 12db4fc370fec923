"""The results store: one parquet file per run."""
