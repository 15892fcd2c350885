"""What is to be run: suite files and plans."""
