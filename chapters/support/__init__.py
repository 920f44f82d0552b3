"""Code that the lessons share: command lines, run folders, checkpoints, readers of a user's files, figures, HTML."""
