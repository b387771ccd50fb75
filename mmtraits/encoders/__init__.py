"""One file per encoder: raw input of one stream in, tokens out."""
