"""Images with more than a class: objects with boxes and masks, or a class for every pixel."""
