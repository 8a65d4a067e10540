"""What must be exact and need not be read first: a concept a file. Nothing here imports what lies
above: the course files, toy, bench."""
