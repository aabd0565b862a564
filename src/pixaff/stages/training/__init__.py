"""What both trainings share: the photos, the loop, and the files that let it go on after a kill."""
