"""Heads: one fused vector per clip -> K traits in target space. One file each: `Config` and `Head`.

`Head(config, width, traits)` maps (B, width) to ((B, traits), aux).
"""
