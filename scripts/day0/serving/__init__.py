"""The inference server: its process, containers, nodes, and whether it answers soundly."""
