"""Haze synthesis and the trainer."""
