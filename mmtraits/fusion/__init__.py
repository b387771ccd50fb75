"""Fusions: every stream's tokens -> one vector per clip. One file each: `Config` and `Fusion`.

`Fusion(config, streams)` has `.width` (D); its forward takes {stream: Tokens (B, T_p, D)} and gives ((B, D), aux).
Any subset of streams may be absent in any row.
"""
