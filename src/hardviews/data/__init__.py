"""Images: folders, tables, torchvision's sets and the built-in one, read and decoded to batches of uint8."""
