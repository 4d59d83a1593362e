"""Many scenes: which, who dehazes them, and what became of each."""
