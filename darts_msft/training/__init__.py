"""What `fit` does: the loss, the score that picks the state that is kept, and the report."""
