"""Jobs on a cluster: their resources, states and options."""
