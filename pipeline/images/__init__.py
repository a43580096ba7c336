"""Images in memory or in files, split into parts, as batches on a device."""
