"""What was drawn of the followed images and what was kept: its files, recording them, reading them."""
