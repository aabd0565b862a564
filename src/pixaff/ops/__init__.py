"""Pure tensor functions: no files, no printing, no threads, and no imports from the rest of pixaff."""
