"""All of a run that is no batch: events, errors, the main log, the console, the summary."""
