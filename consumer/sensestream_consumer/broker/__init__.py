"""The worker's side of the request streams: one outcome for each entry."""
