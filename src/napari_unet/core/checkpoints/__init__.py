"""Opening and saving models: one file per checkpoint family. Nothing in a file is executed.

`opening` leads from a path to a model, by way of `containers` (bytes to plain values), `packages`
(folders and archives that describe what they hold), `families` (names of tensors to networks),
`graphs` (lists of layers to networks) and `rebuild`; `native` and `saving` write.
"""
