"""Files in and out: .npy arrays, images, and outputs that appear whole or not at all."""
