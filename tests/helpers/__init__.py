"""What tests share that is more than a few lines."""
