"""What a view is, and how it becomes pixels."""
