"""The worker's scripts, each called by the module it is named in."""
