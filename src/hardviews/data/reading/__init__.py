"""From bytes to pixels: decoding, tars, and reading over a network."""
