"""From a data set's card or a user's own files to batches on the device: catalog, sources, cache, batches."""
