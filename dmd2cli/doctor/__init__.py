"""Is a run healthy: rules over what it has logged. Nothing here needs torch, or the training to have ended."""
