"""Trained networks on disk, layer by layer: read, run, judged, and rewritten as fully connected ones."""
