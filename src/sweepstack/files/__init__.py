"""Files that are written whole or not at all, that only their owner can read, and that do not outlive their use."""
