"""Labelled clips: manifests, splits, batches. `manifest`, `splits` and `synthetic` import no torch."""
