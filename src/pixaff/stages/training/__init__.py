"""What both trainings share: the datasets, the loop, and the files from which it continues after a kill."""
