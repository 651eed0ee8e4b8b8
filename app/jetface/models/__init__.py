"""From a registry name to a loaded model: files, graphs, families, batchers. Knows no HTTP and no picture formats."""
