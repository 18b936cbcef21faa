"""The data types of the artefacts, one module each."""
