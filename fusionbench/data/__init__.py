"""From a dataset card and a folder of files to a checked table, cached pixels and tensors-to-be."""
