"""What every room needs and nothing of ours: errors, files, run directories, inputs of networks, counting."""
