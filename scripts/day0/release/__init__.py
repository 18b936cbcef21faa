"""What is shown and shipped of a decided release: pages, figures, provenance."""
