"""What a run says of itself: files, numbers, guards, the live view and trackers."""
