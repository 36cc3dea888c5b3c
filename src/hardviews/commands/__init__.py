"""One file per verb of the command line; what is heavy is imported when the verb runs."""
