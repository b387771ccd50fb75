"""What a run's or a bundle's scores are worth: measured, compared, doubted, and told to a reader."""
