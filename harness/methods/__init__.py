"""How it is trained, one file each or one per family."""
