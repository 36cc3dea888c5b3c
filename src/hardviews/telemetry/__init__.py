"""Telemetry: records what was drawn and kept for the followed images, and reads it back."""
