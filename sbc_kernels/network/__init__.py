"""Running a user's network without a trace: copies, batches, tensors, and hooks that watch."""
