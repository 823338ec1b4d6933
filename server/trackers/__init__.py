"""Where a run is reported to, round by round, beside its own pages: the trackers that teams already use."""
