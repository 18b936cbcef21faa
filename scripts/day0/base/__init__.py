"""What every package stands on: files, digests, command lines, messages."""
