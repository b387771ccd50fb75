"""Objectives: what a training step makes small. One file each: `Config` and `Objective`.

`Objective(config, model, loss_weights)` maps (Batch, features {stream: Tokens}) to (loss (), values to log). The
features are those of the batch after modality dropout. What an objective holds besides the model is trained and resumed
with it and is in no bundle. `own_validation = True`: the validation loss is its own loss, without labels.
"""
