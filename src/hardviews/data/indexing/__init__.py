"""Lists of millions of images, kept on disk and memory-mapped."""
