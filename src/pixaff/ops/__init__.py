"""Pure tensor functions: no files, no printing, and nothing of pixaff but each other."""
