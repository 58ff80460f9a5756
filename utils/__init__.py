"""What every script needs and what knows nothing of pruning: engine, run directories, files, flags, plots."""
