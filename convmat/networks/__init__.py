"""Trained networks on disk, layer by layer: read, sized, run, judged, and rewritten as fully connected ones."""
