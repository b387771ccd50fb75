"""What language models in local folders make of a clip's words, ahead of training."""
