"""What hard views did: reads run folders, and never models."""
